/** "No dependency, tree-shakeable, usable in a browser unchanged." */
import { globSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build, defaultClientConditions } from "vite";
import { describe, expect, test } from "vitest";
import { importsOf } from "../../../tools/check-imports.ts";
import manifest from "../package.json" with { type: "json" };

const home = fileURLToPath(new URL("..", import.meta.url));
const sources = globSync("src/**/*.ts", { cwd: home });

/** A program that imports @fa/core, from its sources, bundled and minified for a browser. */
async function bundle(program: string): Promise<string> {
  const entry = `${home}program.js`;
  const result = await build({
    root: home,
    configFile: false,
    logLevel: "silent",
    resolve: { conditions: ["@fa/source", ...defaultClientConditions] },
    plugins: [
      {
        name: "program",
        enforce: "pre",
        resolveId: (id) => (id === entry ? id : undefined),
        load: (id) => (id === entry ? program : undefined),
      },
    ],
    build: { write: false, lib: { entry, formats: ["es"] }, minify: true },
  });
  const outputs = (Array.isArray(result) ? result : [result]) as { output: { code: string; imports: string[] }[] }[];
  const files = outputs.flatMap(({ output }) => output);
  // One file, which leaves nothing to be imported: no Node, no other package.
  expect(files.map(({ imports }) => imports)).toEqual([[]]);
  return files[0].code;
}

describe("a bundle", () => {
  test("of FaError alone holds neither the reference nor anything else, in less than a kilobyte", async () => {
    const code = await bundle(`export { FaError } from "@fa/core";`);
    expect(code).toContain("FaError");
    expect(code).not.toMatch(/reference|naive|tiled|attention|softcap/i);
    expect(code.length).toBeLessThan(1000);
  });

  test("of createAttention without reference() leaves the reference's algorithms out", async () => {
    const without = await bundle(`export { createAttention } from "@fa/core";`);
    const all = await bundle(`export { createAttention, reference } from "@fa/core";`);
    const telltale = "pure TypeScript, float64";
    expect([without.includes(telltale), all.includes(telltale)]).toEqual([false, true]);
    expect(without).not.toContain("tanh");
    expect(gzipSync(without).length).toBeLessThan(15_500);
    expect(gzipSync(all).length).toBeLessThan(20_500);
  });

  test("of a planner's parts holds no class of tensors", async () => {
    const code = await bundle(`export { plan, describePlan } from "@fa/core";`);
    expect(code).not.toMatch(/FinalizationRegistry|float64/);
  });

  test("runs: what is bundled is what was written", async () => {
    const code = await bundle(`export { createAttention, reference } from "@fa/core";`);
    const { createAttention, reference } = (await import(
      /* @vite-ignore */ `data:text/javascript,${encodeURIComponent(code)}`
    )) as typeof import("../src/index.ts");
    const fa = await createAttention({ backends: [reference()] });
    const x = fa.tensor(Float32Array.of(1, 2), { shape: [1, 2, 1] });
    const { out } = await fa.attention(x, x, x, { scale: 0 });
    expect(await out.data()).toEqual(Float32Array.of(1.5, 1.5));
  });
});

describe("the package", () => {
  test("depends on nothing and has no side effects", () => {
    const { dependencies, peerDependencies, optionalDependencies, sideEffects, scripts } = manifest as Record<
      string,
      unknown
    >;
    expect({ dependencies, peerDependencies, optionalDependencies }).toEqual({});
    expect(sideEffects).toBe(false);
    expect(Object.keys(scripts as object).filter((name) => /install|prepare/.test(name))).toEqual([]);
  });

  test.each(sources)(
    "%s imports files of its own only, and needs nothing that is Node's or that a strict CSP forbids",
    (file) => {
      const code = readFileSync(`${home}${file}`, "utf8").replaceAll(/\/\*[\s\S]*?\*\/|\/\/.*/g, "");
      const foreign = importsOf(file, code).filter(({ specifier }) => !specifier.startsWith("."));
      expect(foreign).toEqual([]);
      expect(code).not.toMatch(/\bnode:|\brequire\(|\bBuffer\.|\beval\(|\bnew Function\b/);
    },
  );
});
