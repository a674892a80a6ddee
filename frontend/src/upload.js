// The upload page: Uppy's Dashboard over tus through the proxy, or over presigned parts where the server says so.
// What a file is (cohort, year, type) comes from the form's fields; without this script the form sends one file by itself.

import AwsS3 from "@uppy/aws-s3";
import Uppy from "@uppy/core";
import Dashboard from "@uppy/dashboard";
import Tus from "@uppy/tus";

const form = document.getElementById("upload");
const { transfer, ceiling } = form.dataset;
const FIELDS = ["cohort", "protocol_year", "file_type"];
// tus: retry for about a minute and a half, which outlasts a server's restart and a dead writer's lease (60 s).
const RETRY_DELAYS = [0, 1000, 3000, 5000, 10000, 20000, 30000, 30000];

const uppy = new Uppy({
  autoProceed: false,
  allowMultipleUploadBatches: true,
  onBeforeUpload() {
    if (!form.reportValidity()) return false; // the browser shows which field is missing
    for (const file of uppy.getFiles()) uppy.setFileMeta(file.id, describe(file));
    return true;
  },
});

uppy.use(Dashboard, {
  inline: true,
  target: "#dashboard",
  width: "100%",
  height: 380,
  theme: "auto",
  proudlyDisplayPoweredByUppy: false,
  showProgressDetails: true,
  disableThumbnailGenerator: true, // a preview would be a second copy in the browser
  doneButtonHandler: null,
});

if (transfer === "presigned") {
  uppy.use(AwsS3, { companionEndpoint: location.origin, shouldUseMultipart: true, allowedMetaFields: true });
} else {
  uppy.use(Tus, {
    endpoint: "/uploads",
    chunkSize: ceiling ? Number(ceiling) : Infinity,
    retryDelays: RETRY_DELAYS,
    allowedMetaFields: [...FIELDS, "filename", "filetype"],
    removeFingerprintOnSuccess: true,
  });
}

function describe(file) {
  const values = Object.fromEntries(FIELDS.map((name) => [name, form.elements[name].value.trim()]));
  return { ...values, filename: file.name, filetype: file.type || "application/octet-stream", size: String(file.size) };
}

uppy.on("upload-success", async (file, response) => {
  try {
    show(file.name, await receiptOf(response));
  } catch (error) {
    uppy.info(`${file.name} was received, but its receipt could not be fetched: ${error.message}`, "warning", 10000);
  }
});

async function receiptOf(response) {
  // Of a presigned upload Uppy hands on the key, which is the upload's id; of a tus upload its address.
  const address = response.body?.key ? `/uploads/${encodeURIComponent(response.body.key)}` : response.uploadURL;
  const answer = await fetch(address, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const { receipt } = await answer.json();
  if (!receipt) throw new Error("the server has none yet");
  return receipt;
}

function show(name, receipt) {
  const shown = document.getElementById("receipt").content.cloneNode(true);
  const field = (key) => shown.querySelector(`[data-field="${key}"]`);
  field("name").textContent = name;
  field("file").href = `/app/files/${encodeURIComponent(receipt.file_id)}`;
  field("file").firstChild.textContent = receipt.file_id;
  field("size").textContent = `${receipt.size.toLocaleString("en")} bytes`;
  field("sha256").textContent = receipt.sha256 ?? "not known until the file was verified";
  field("completed_at").textContent = receipt.completed_at;
  field("ledger").textContent = receipt.ledger ?? "—";
  const saved = new Blob([JSON.stringify({ name, ...receipt }, null, 2)], { type: "application/json" });
  field("save").href = URL.createObjectURL(saved);
  field("save").download = `receipt-${receipt.file_id}.json`;
  document.getElementById("receipts").prepend(shown);
}

document.getElementById("plain").remove();
document.getElementById("dashboard").hidden = false;
document.getElementById("needs").hidden = false;
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("beforeunload", (event) => {
  if (uppy.getFiles().some((file) => file.progress.uploadStarted && !file.progress.uploadComplete)) event.preventDefault();
});
