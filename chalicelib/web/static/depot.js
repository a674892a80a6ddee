// What every page does better with script: tables that sort. Nothing needs it.

for (const table of document.querySelectorAll("table[data-sortable]")) makeSortable(table);

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const name = head.textContent.trim();
    if (!name || head.querySelector(".hidden")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.textContent = name;
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((one, other) => compare(one.cells[column], other.cells[column]) * (descending ? -1 : 1));
      table.tBodies[0].append(...rows);
    });
    head.replaceChildren(button);
  });
}

function compare(one, other) {
  if (one.dataset.value !== undefined) return Number(one.dataset.value) - Number(other.dataset.value);
  return one.textContent.trim().localeCompare(other.textContent.trim(), undefined, { numeric: true });
}
