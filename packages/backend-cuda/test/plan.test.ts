import { attentionProblem, plan, type AttentionProblem, type Capabilities, type FloatDType } from "@fa/core";
import { describe, expect, test } from "vitest";
import { kernelTable, sharingOf } from "../src/kernels.ts";

const CAPABILITIES: Capabilities = {
  dtypes: ["float32", "float16", "bfloat16", "float8e4m3", "int32", "bool"],
  maxHeadDim: 256,
  sharedBytes: 101_376,
  maxBufferBytes: 2 ** 36,
  features: [],
};
const PROCESSORS = 132;

interface Sizes {
  readonly B?: number;
  readonly H?: number;
  readonly Hkv?: number;
  readonly Sq: number;
  readonly Skv: number;
  readonly D?: number;
  readonly Dv?: number;
  readonly dtype?: FloatDType;
}
function problemOf({ B = 1, H = 1, Hkv = H, Sq, Skv, D = 64, Dv = D, dtype = "bfloat16" }: Sizes): AttentionProblem {
  return attentionProblem({
    q: { shape: [B, H, Sq, D], dtype },
    k: { shape: [B, Hkv, Skv, D], dtype },
    v: { shape: [B, Hkv, Skv, Dv], dtype },
  });
}

describe("the planner", () => {
  test.each([
    [{ D: 64 }, "forward-half-d64"],
    [{ D: 65 }, "forward-half-d128"],
    [{ D: 3, Dv: 200 }, "forward-half-d256"],
    [{ D: 128, dtype: "float32" as const }, "forward-float32-d128"],
    [{ D: 128, dtype: "float8e4m3" as const }, "forward-half-d128"],
  ])("takes the first row that holds D and Dv: %j gives %s", (sizes, id) => {
    const planned = plan(problemOf({ Sq: 100, Skv: 100, ...sizes }), CAPABILITIES, kernelTable(PROCESSORS));
    expect(planned).toMatchObject({ ok: true, kernel: { id } });
  });

  test("every row's tile fits the 99 KiB of the smallest device, and of sm_90a the 227 KiB of its own", () => {
    for (const { id, needs, sharedBytes } of kernelTable(PROCESSORS)) {
      const most = needs.includes("sm_90a") ? 232_448 : 101_376;
      expect(sharedBytes?.(problemOf({ Sq: 1, Skv: 1 }), { q: 1, kv: 1 }) ?? 0, id).toBeLessThanOrEqual(most);
    }
  });

  test("float8 is computed as bfloat16: the workspace holds q, k and v", () => {
    const planned = plan(problemOf({ Sq: 128, Skv: 256, dtype: "float8e4m3" }), CAPABILITIES, kernelTable(PROCESSORS));
    expect(planned).toMatchObject({ ok: true, workspaceBytes: 2 * 64 * (128 + 256 + 256) });
  });
});

describe("on sm_90a", () => {
  const hopper: Capabilities = { ...CAPABILITIES, sharedBytes: 232_448, features: ["sm_90", "sm_90a"] };
  const qkv = (shape: readonly number[], dtype: FloatDType = "bfloat16") => ({
    q: { shape, dtype },
    k: { shape, dtype },
    v: { shape, dtype },
  });
  const idOf = (shape: readonly number[], options: Parameters<typeof attentionProblem>[1] = {}): string => {
    const planned = plan(attentionProblem(qkv(shape), options), hopper, kernelTable(PROCESSORS));
    return planned.ok ? planned.kernel.id : "";
  };
  const shape = [2, 16, 1024, 128];

  test.each([
    [{}, "hopper-forward-half-d128"],
    [{ causal: true }, "hopper-forward-half-d128"],
    [{ window: [100, 0] as const }, "hopper-forward-half-d128"],
    [{ softcap: 5 }, "hopperGeneral-forward-half-d128"],
    [{ dropout: { p: 0.5, seed: 1 } }, "hopperGeneral-forward-half-d128"],
    [{ sinks: { shape: [16], dtype: "float32" as const } }, "hopperGeneral-forward-half-d128"],
    [{ mask: { shape: [1, 1, 1024, 1024], dtype: "bool" as const } }, "forward-half-d128"],
    [{ bias: { shape: [1, 1, 1024, 1024], dtype: "float32" as const } }, "forward-half-d128"],
    [{ blockSize: 64 }, "forward-half-d128"],
  ])("%j gives %s", (options, id) => {
    expect(idOf(shape, options)).toBe(id);
  });
  test("with a band few keys of head dims up to 64 and of 256 have tiles of their own", () => {
    const short = { causal: true };
    expect(idOf([2, 16, 1024, 64], short)).toBe("hopperShort-forward-half-d64");
    expect(idOf([2, 16, 1024, 256], short)).toBe("hopperShort-forward-half-d256");
    expect(idOf([2, 16, 1024, 200], short)).toBe("hopperShort-forward-half-d256");
    expect(idOf([2, 16, 1024, 64], { window: [100, -1] })).toBe("hopperShort-forward-half-d64");
    // No row is kept from a key by these, or there are more.
    expect(idOf([2, 16, 1024, 64], { window: [1023, 1023] })).toBe("hopper-forward-half-d64");
    expect(idOf([2, 16, 1032, 64], short)).toBe("hopper-forward-half-d64");
    expect(idOf([2, 16, 1024, 80], short)).toBe("hopper-forward-half-d96");
    expect(idOf([2, 16, 1024, 64], { ...short, softcap: 5 })).toBe("hopperGeneral-forward-half-d64");
  });
  test("head dims are multiples of 8, up to the next of 64, 96, 128, 192, 256", () => {
    expect([8, 72, 104, 136, 200].map((D) => idOf([2, 16, 1024, D]))).toEqual(
      [64, 96, 128, 192, 256].map((D) => `hopper-forward-half-d${D}`),
    );
    expect(idOf([2, 16, 1024, 65])).toBe("forward-half-d128");
  });
  test("few tiles of many keys go where keys are split", () => {
    expect(idOf([1, 2, 1024, 128])).toBe("forward-half-d128");
    expect(idOf([1, 2, 512, 128])).toBe("hopper-forward-half-d128");
  });
});

describe("decode", () => {
  test("is what the plan shows", () => {
    const problem = problemOf({ H: 32, Hkv: 8, Sq: 1, Skv: 1024, D: 128 });
    expect(plan(problem, CAPABILITIES, kernelTable(PROCESSORS))).toMatchObject({
      ok: true,
      kernel: { id: "decode-forward-half-d128" },
      splits: 8,
    });
  });
  test("takes what has 16 rows a key head, and no more", () => {
    const idOf = (sizes: Sizes): string => {
      const planned = plan(problemOf(sizes), CAPABILITIES, kernelTable(PROCESSORS));
      return planned.ok ? planned.kernel.id : "";
    };
    expect(idOf({ H: 32, Hkv: 2, Sq: 1, Skv: 128 })).toBe("decode-forward-half-d64");
    expect(idOf({ H: 32, Hkv: 2, Sq: 2, Skv: 128 })).toBe("forward-half-d64");
  });
  const splitsOf = (sizes: Partial<Sizes> & { readonly Skv: number }): number =>
    sharingOf(problemOf({ H: 32, Hkv: 8, Sq: 1, D: 128, ...sizes }), "decode", { q: 8, kv: 16 }, PROCESSORS).splits;
  test("splits the keys until the device is busy to the end, into pieces of 128 keys or more", () => {
    expect(splitsOf({ Skv: 131_072 })).toBe(16);
    expect(splitsOf({ Skv: 1024 })).toBe(8);
    expect(splitsOf({ B: 8, Skv: 8192 })).toBe(2);
    expect(splitsOf({ B: 64, Skv: 8192 })).toBe(1);
    expect(splitsOf({ B: 35, Skv: 8192 })).toBe(5);
    expect(splitsOf({ B: 1000, Skv: 8192 })).toBe(1);
  });
});

describe("other kernels", () => {
  const tile = { q: 64, kv: 64 };
  test("put the query heads of a key head into one block of rows where they fit", () => {
    const groupOf = (Sq: number): number =>
      sharingOf(problemOf({ H: 32, Hkv: 8, Sq, Skv: 128 }), "generic", tile, PROCESSORS).group;
    expect(groupOf(16)).toBe(4);
    expect(groupOf(17)).toBe(1);
  });
  test("split the keys where the device would stand half idle, into pieces of 256 keys or more", () => {
    const splitsOf = (sizes: Sizes): number => sharingOf(problemOf(sizes), "generic", tile, PROCESSORS).splits;
    expect(splitsOf({ H: 8, Sq: 32, Skv: 131_072 })).toBe(33);
    expect(splitsOf({ H: 8, Sq: 32, Skv: 1024 })).toBe(4);
    expect(splitsOf({ H: 16, Sq: 4096, Skv: 4096 })).toBe(1);
  });
});
