import { beforeAll, describe, expect, test } from "vitest";
import { inDeno, noDeno } from "../../../tools/deno.ts";
import { KERNELS } from "../src/kernels/table.ts";
import type { Compiled } from "./wgpu-shaders.ts";

describe.skipIf(noDeno)(`by wgpu's compiler, in Deno${noDeno ? `: ${noDeno}` : ""}`, () => {
  let compiled: Compiled[];
  beforeAll(async () => {
    compiled = await inDeno("packages/backend-webgpu/test/wgpu-shaders.ts");
  }, 300_000);

  test.each(KERNELS.filter(({ needs }) => needs.length === 0))("every shader of $id is valid", ({ id }) => {
    const found = compiled.find((row) => row.id === id);
    expect(found?.errors).toEqual([]);
    expect(found?.shaders).toBeGreaterThan(0);
  });
});
