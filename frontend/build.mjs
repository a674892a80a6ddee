// Builds src/ into the folder that the web tier serves. No network, no globals, the same output for the same input.
import { build } from "esbuild";

const target = process.argv[2] ?? "../chalicelib/web/static/build";

await build({
  entryPoints: ["src/upload.js", "src/upload.css"],
  outdir: target,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["chrome109", "firefox115", "safari16"],
  legalComments: "external",
  logLevel: "warning",
});
