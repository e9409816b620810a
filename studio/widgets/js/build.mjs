// Builds the bundle that the Python package carries; with --check, proves that the committed one is what the sources give.
import { build } from "esbuild";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "..", "static");
const common = { bundle: true, minify: true, write: false, charset: "utf8", legalComments: "none", absWorkingDir: here };

const results = await Promise.all([
  build({ ...common, entryPoints: ["src/index.ts"], format: "esm", target: "es2022", outfile: join(target, "studio.js") }),
  build({ ...common, entryPoints: ["src/all.css"], target: "chrome111", outfile: join(target, "studio.css") }),
]);
const files = results.flatMap((result) => result.outputFiles);

if (process.argv.includes("--check")) {
  const stale = [];
  for (const file of files) {
    const committed = await readFile(file.path).catch(() => null);
    if (committed === null || !committed.equals(Buffer.from(file.contents))) stale.push(relative(here, file.path));
  }
  if (stale.length > 0) {
    console.error(`out of date: ${stale.join(", ")}; run: npm run build`);
    process.exit(1);
  }
  console.log("the bundle is up to date");
} else {
  await mkdir(target, { recursive: true });
  for (const file of files) {
    await writeFile(file.path, file.contents);
    console.log(`${relative(here, file.path)} ${(file.contents.length / 1024).toFixed(1)} KiB`);
  }
}
