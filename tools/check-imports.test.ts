import { describe, expect, test } from "vitest";
import { checkImports, importsOf, type Manifest } from "./check-imports.ts";

const manifests = new Map<string, Manifest>([
  ["", { name: "fa", devDependencies: { vitest: "1" } }],
  [
    "packages/core",
    { name: "@fa/core", exports: { ".": {}, "./reference": {} }, devDependencies: { "fast-check": "1" } },
  ],
  ["packages/backend-wasm", { name: "@fa/backend-wasm", exports: { ".": {} } }],
  ["packages/nn", { name: "@fa/nn", exports: { ".": {} } }],
  [
    "packages/conformance",
    { name: "@fa/conformance", exports: { ".": {} }, dependencies: { commander: "1" }, devDependencies: { tar: "1" } },
  ],
  ["apps/bench", { name: "@fa/bench", exports: { ".": {} }, dependencies: { echarts: "1" } }],
  ["apps/web", { name: "@fa/web", dependencies: { preact: "1" } }],
]);

const check = (file: string, source: string) => checkImports(new Map([[file, source]]), manifests);

describe("an import against the arrows is found", () => {
  test.each([
    ["core imports Node", "packages/core/src/a.ts", `import { readFileSync } from "node:fs";`, /Node's modules/],
    ["core imports Node without its prefix", "packages/core/src/a.ts", `import fs from "fs";`, /Node's modules/],
    ["core imports Node in a file that says so", "packages/core/src/a.node.ts", `import "node:fs";`, /Node's modules/],
    ["core imports a package", "packages/core/src/a.ts", `import fc from "fast-check";`, /dependencies/],
    ["core imports a back end", "packages/core/src/a.ts", `export * from "@fa/backend-wasm";`, /no arrow/],
    [
      "core imports a back end dynamically outside auto",
      "packages/core/src/a.ts",
      `await import("@fa/backend-wasm");`,
      /no arrow/,
    ],
    [
      "auto imports a back end statically",
      "packages/core/src/auto.ts",
      `import { wasm } from "@fa/backend-wasm";`,
      /no arrow/,
    ],
    ["a type alone", "packages/core/src/a.ts", `import type { X } from "@fa/nn";`, /no arrow/],
    ["a type in place", "packages/core/src/a.ts", `export type X = import("@fa/nn").X;`, /no arrow/],
    ["a template literal", "packages/core/src/a.ts", "await import(`@fa/nn`);", /no arrow/],
    ["core reaches into a neighbour's sources", "packages/core/src/a.ts", `import "../../nn/src/index.ts";`, /by name/],
    ["sources import their tests", "packages/nn/src/a.ts", `import "../test/helper.ts";`, /leaves/],
    ["a package imports tools", "packages/nn/src/a.ts", `import "../../../tools/test-needs.ts";`, /leaves/],
    ["a package imports an app", "packages/nn/src/a.ts", `import "../../../apps/bench/src/cli.ts";`, /leaves/],
    ["a test imports an app", "packages/nn/test/a.test.ts", `import "../../../apps/bench/src/cli.ts";`, /leaves/],
    ["a back end imports another", "packages/backend-wasm/src/a.ts", `import "@fa/backend-cuda";`, /no arrow/],
    ["a back end imports nn", "packages/backend-wasm/src/a.ts", `import { FlashMHA } from "@fa/nn";`, /no arrow/],
    [
      "a back end imports Node in a common file",
      "packages/backend-wasm/src/a.ts",
      `import "node:fs";`,
      /Node's modules/,
    ],
    ["nn imports a back end", "packages/nn/src/a.ts", `import { wasm } from "@fa/backend-wasm";`, /no arrow/],
    ["a development dependency in sources", "packages/conformance/src/a.ts", `import "tar";`, /dependencies/],
    ["a way round the exports", "packages/nn/src/a.ts", `import "@fa/core/dist/mask.js";`, /does not export/],
    [
      "a test's way round the exports",
      "packages/nn/test/a.test.ts",
      `import "@fa/core/src/mask.ts";`,
      /does not export/,
    ],
    ["a package that is not there", "apps/bench/src/a.ts", `import "@fa/cuda";`, /no package/],
    ["a package imports an app by name", "packages/nn/src/a.ts", `import "@fa/bench";`, /no arrow/],
    ["a test imports an app by name", "packages/nn/test/a.test.ts", `import "@fa/bench";`, /no arrow/],
    ["the page imports Node", "apps/web/src/a.tsx", `import "node:fs";`, /Node's modules/],
    ["the page reaches into the app", "apps/web/src/a.ts", `import "@fa/bench/dist/cli.js";`, /does not export/],
    ["an app's missing dependency", "apps/bench/src/a.ts", `import "chalk";`, /dependencies/],
    ["a tool's missing dependency", "tools/a.ts", `import "chalk";`, /dependencies/],
  ])("%s", (_, file, source, rule) => {
    const violations = check(file, source);
    expect(violations).toHaveLength(1);
    expect(violations[0]).toMatchObject({ file, rule: expect.stringMatching(rule) });
  });
});

describe("an import along the arrows passes", () => {
  test.each([
    ["a file of the same package", "packages/core/src/reference/a.ts", `import { x } from "../mask.ts";`],
    ["auto looks for a back end", "packages/core/src/auto.ts", `await import("@fa/backend-wasm");`],
    [
      "auto looks for a back end that is not in the workspace",
      "packages/core/src/auto.ts",
      `await import("@fa/backend-x");`,
    ],
    ["a back end imports core", "packages/backend-wasm/src/a.ts", `import { x } from "@fa/core";`],
    ["a subpath that is exported", "packages/backend-wasm/src/a.ts", `import { x } from "@fa/core/reference";`],
    ["a back end's file for Node", "packages/backend-wasm/src/pool.node.ts", `import "node:worker_threads";`],
    ["a command", "packages/conformance/src/cli.ts", `import "node:process"; import { Command } from "commander";`],
    ["a bin starts what was built", "packages/conformance/bin/x.js", `import "../dist/cli.js";`],
    [
      "a test uses any package",
      "packages/core/test/a.test.ts",
      `import "vitest"; import "fast-check"; import "@fa/conformance";`,
    ],
    ["a test asks for the oracle", "packages/core/test/a.test.ts", `import "../../../tools/test-needs.ts";`],
    ["an app", "apps/bench/src/a.ts", `import "node:fs"; import "echarts"; import "@fa/nn"; import "./b.ts";`],
    ["the page", "apps/web/src/a.tsx", `import "@fa/bench"; import "preact/hooks"; const x = <p>it's</p>;`],
    ["a tool of the page", "apps/web/tools/a.ts", `import "node:fs"; import "vitest";`],
    ["a tool", "tools/a.ts", `import "node:fs"; import "@fa/core"; import "./b.ts";`],
    [
      "the word in a comment or a string",
      "packages/core/src/a.ts",
      `// import "node:fs"\nexport const s = 'import "node:fs"';`,
    ],
  ])("%s", (_, file, source) => {
    expect(check(file, source)).toEqual([]);
  });
});

test("every form of import is read, in order", () => {
  const source = `
    import a from "a"; import type { b } from "b"; export { c } from "c"; export * from "d"; import "e";
    type F = import("f").F; const g = await import("g"); const h = await import(variable);`;
  expect(importsOf("x.ts", source).map(({ specifier }) => specifier)).toEqual(["a", "b", "c", "d", "e", "f", "g"]);
});

test("a source that cannot be parsed is an error, not a pass", () => {
  expect(() => importsOf("x.ts", "import from from from")).toThrow(/x\.ts/);
});
