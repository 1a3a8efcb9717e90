/**
 * Writes `src/generated/*.ts`: the bytes of `wasm/*.wasm` as text in a JavaScript module, which every bundler, runtime and
 * content security policy takes without being told; and the worker's program as text, for Node, where a file beside a
 * bundle would be lost. Run before `tsc`.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { PACKAGE, VARIANTS } from "./variants.ts";

const generated = new URL("src/generated/", PACKAGE);
mkdirSync(generated, { recursive: true });

/** Of the import of `env.memory`: 3 says that it has a maximum and is shared, 1 that it has a maximum. */
function positionOfMemoryFlags(bytes: Buffer, name: string): number {
  const before = Buffer.from("\x03env\x06memory\x02", "latin1");
  const at = bytes.indexOf(before) + before.length;
  if (at < before.length || bytes[at] !== 3) throw new Error(`${name} must import shared memory as env.memory`);
  return at;
}

for (const variant of VARIANTS) {
  const bytes = readFileSync(new URL(`wasm/${variant}.wasm`, PACKAGE));
  const text = [
    `// Made by tools/embed.ts from wasm/${variant}.wasm.`,
    `export const length = ${bytes.length};`,
    `export const memoryFlags = ${positionOfMemoryFlags(bytes, variant)};`,
    `export const base64: string =\n  "${bytes.toString("base64")}";`,
  ];
  writeFileSync(new URL(`${variant}.ts`, generated), `${text.join("\n")}\n`);
}

/** A source as JavaScript that needs no other file: `job.ts` imports nothing and stands before `worker.ts`, which does. */
const standalone = (path: string): string =>
  stripTypeScriptTypes(readFileSync(new URL(path, PACKAGE), "utf8"))
    .replaceAll(/^import\b[^;]*;$/gm, "")
    .replaceAll(/^export /gm, "")
    .replaceAll(/^ *(\/\/|\/?\*).*\n|^ *\n/gm, "");
const worker = ["src/job.ts", "src/worker.ts"].map(standalone).join("");
writeFileSync(
  new URL("worker-text.ts", generated),
  `// Made by tools/embed.ts from src/job.ts and src/worker.ts.\nexport const text: string =\n  ${JSON.stringify(worker)};\n`,
);
