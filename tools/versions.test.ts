import { expect, test } from "vitest";
import { versions } from "./versions.ts";

test("a version that a package declares is the one of its package.json", () => {
  const all = versions();
  expect(all.map(({ file }) => file).toSorted()).toEqual(
    ["backend-cuda", "backend-wasm", "backend-webgpu", "core"].map((name) => `packages/${name}/src/version.ts`),
  );
  for (const { file, declared, version } of all) expect([file, declared]).toEqual([file, version]);
});
