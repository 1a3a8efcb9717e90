/**
 * Writes `src/generated/*.ts`: the bytes of `wasm/*.wasm` as text in a JavaScript module, which every bundler, runtime and
 * content security policy takes without being told. Run before `tsc`.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { PACKAGE, VARIANTS } from "./variants.ts";

const generated = new URL("src/generated/", PACKAGE);
mkdirSync(generated, { recursive: true });
for (const variant of VARIANTS) {
  const bytes = readFileSync(new URL(`wasm/${variant}.wasm`, PACKAGE));
  const text = [
    `// Made by tools/embed.ts from wasm/${variant}.wasm.`,
    `export const length = ${bytes.length};`,
    `export const base64: string =\n  "${bytes.toString("base64")}";`,
  ];
  writeFileSync(new URL(`${variant}.ts`, generated), `${text.join("\n")}\n`);
}
