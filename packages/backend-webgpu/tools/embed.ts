/**
 * Writes `src/generated/shaders.ts`: every `.wgsl` file under `src/kernels` as text in one JavaScript module, which every
 * bundler and runtime takes without being told. Run before `tsc`, and by whoever changed a `.wgsl` file.
 */
import { globSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";

const folder = new URL("../src/kernels/", import.meta.url);
const generated = new URL("../src/generated/", import.meta.url);

const names = globSync("**/*.wgsl", { cwd: folder })
  .map((name) => name.replaceAll("\\", "/"))
  .toSorted();
const entries = names.map((name) => {
  // Comments are for whoever reads the file; directives are comments of the form //#.
  const text = readFileSync(new URL(name, folder), "utf8")
    .replaceAll(/^[ \t]*\/\/(?!#).*\n/gm, "")
    .replaceAll(/[ \t]+\/\/(?!#).*$/gm, "")
    .replaceAll(/\n{2,}/g, "\n");
  return `  ${JSON.stringify(name)}: ${JSON.stringify(text)},\n`;
});
mkdirSync(generated, { recursive: true });
writeFileSync(
  new URL("shaders.ts", generated),
  `// Made by tools/embed.ts from src/kernels.\nexport const SHADERS: Readonly<Record<string, string>> = {\n${entries.join("")}};\n`,
);
