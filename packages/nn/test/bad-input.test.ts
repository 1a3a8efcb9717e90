// Every wrong argument gets an FaError that says where, the rule, what came and what to do; and nothing is touched.

import { FaError, reference, show, type Attention, type FaErrorCode, type Tensor } from "@fa/core";
import { readSafetensors, writeSafetensors, type StoredTensor } from "@fa/core/safetensors";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { FlashMHA, type FlashMHAConfig, type SavedForward } from "../src/index.ts";
import { bitsOf, goldenFile, noise, open, upload } from "./support.ts";

const E = 48;
const CONFIG = { embedDim: E, numHeads: 4 };

let fa: Attention;
let other: Attention;
let mha: FlashMHA;
let x: Tensor;
let foreign: Tensor;
let disposed: Tensor;
beforeAll(async () => {
  [fa, other] = await Promise.all([open(reference()), open(reference())]);
  mha = new FlashMHA(fa, CONFIG);
  x = upload(fa, noise(2 * 3 * E, 1), [2, 3, E]);
  foreign = upload(other, noise(2 * 3 * E, 1), [2, 3, E]);
  disposed = fa.empty({ shape: [2, 3, E] });
  disposed.dispose();
});
afterAll(() => Promise.all([fa.dispose(), other.dispose()]));

/** What a name is, a call that breaks a rule, and what the error has to be. */
type Row = readonly [name: string, call: () => unknown, code: FaErrorCode, message: string | RegExp];

async function errorOf(call: () => unknown): Promise<unknown> {
  try {
    await call();
  } catch (error) {
    return error;
  }
  return undefined;
}

function refuses(rows: readonly Row[]): void {
  test.each(rows)("%s", async (_, call, code, message) => {
    const untouched = await bitsOf(await mha.forward(x));
    const weight = mha.parameters()["Wqkv.weight"];
    const error = await errorOf(call);
    expect(error).toBeInstanceOf(FaError);
    expect((error as FaError).message).toMatch(message);
    // where: rule; got received. fix.
    expect((error as FaError).message).toMatch(/^[^:]+: .+; got .+\. .+[.?]$/s);
    expect((error as FaError).code).toBe(code);
    expect(mha.parameters()["Wqkv.weight"]).toBe(weight);
    expect(await bitsOf(await mha.forward(x))).toEqual(untouched);
  });
}

const anything = (value: unknown) => value as never;

describe("configuration", () => {
  const make = (config: object) => () => new FlashMHA(fa, anything({ ...CONFIG, ...config }));
  const option = (config: object, message: string | RegExp): Row => [
    Object.entries(config)
      .map(([name, value]) => `${name}: ${show(value)}`)
      .join(", "),
    make(config),
    "FA_OPTION",
    message,
  ];
  refuses([
    [
      "no instance",
      () => new FlashMHA(anything({}), CONFIG),
      "FA_OPTION",
      "FlashMHA(fa): fa must be an Attention; got {",
    ],
    ["no configuration", () => new FlashMHA(fa, anything(undefined)), "FA_OPTION", "FlashMHA(options)"],
    ["a list", () => new FlashMHA(fa, anything([512, 8])), "FA_OPTION", "FlashMHA(options)"],
    [
      "no numHeads",
      () => new FlashMHA(fa, anything({ embedDim: E })),
      "FA_OPTION",
      "FlashMHA(numHeads): numHeads must be an integer from 1; got undefined.",
    ],
    option({ numHeadKv: 2 }, `unknown option "numHeadKv". Did you mean "numHeadsKv"?`),
    option({ head_dim: 64 }, `unknown option "head_dim"`),
    option({ embedDim: 0 }, "embedDim must be an integer from 1; got 0."),
    option({ embedDim: 48.5 }, "embedDim must be an integer from 1; got 48.5."),
    option({ embedDim: "48" }, `embedDim must be an integer from 1; got "48".`),
    option({ numHeads: -4 }, "numHeads must be an integer from 1; got -4."),
    option({ numHeads: 5 }, "numHeads must be a divisor of embedDim = 48; got 5."),
    option({ numHeadsKv: 3 }, "numHeadsKv must be a divisor of numHeads = 4; got 3."),
    option({ numHeadsKv: 8 }, "numHeadsKv must be a divisor of numHeads = 4; got 8."),
    option({ numHeadsKv: 0 }, "numHeadsKv must be an integer from 1; got 0."),
    option({ embedDim: 514, numHeads: 2 }, "must be at most 256; got 514 / 2 = 257."),
    option({ causal: "bottom-right" }, `causal must be true or false; got "bottom-right".`),
    option({ bias: 0 }, "bias must be true or false; got 0."),
    option({ dropout: 1.1 }, "dropout must be a number from 0 to 1; got 1.1."),
    option({ dropout: -0.1 }, "dropout must be a number from 0 to 1; got -0.1."),
    option({ dropout: "0.1" }, `dropout must be a number from 0 to 1; got "0.1".`),
    option({ dropout: NaN }, "dropout must be a number from 0 to 1; got NaN."),
    option({ dtype: "float64" }, `dtype must be one of float32, float16, bfloat16; got "float64".`),
    option({ dtype: "float8e4m3" }, `got "float8e4m3".`),
    option({ dtype: "int32" }, `got "int32".`),
    option({ seed: -1 }, "FlashMHA(seed): seed must be an integer from 0 to 2^53 - 1"),
    option({ seed: 0.5 }, "FlashMHA(seed)"),
    option({ seed: 1n << 64n }, "a bigint below 2^64; got 18446744073709551616n."),
    [
      "weights beyond memory",
      make({ embedDim: 2 ** 27, numHeads: 2 ** 20 }),
      "FA_OUT_OF_MEMORY",
      "weights must fit in host memory; got Wqkv.weight",
    ],
    [
      "a disposed instance",
      async () => {
        const closed = await open(reference());
        await closed.dispose();
        return new FlashMHA(closed, CONFIG);
      },
      "FA_DISPOSED",
      "disposed",
    ],
  ]);
});

describe("tensors", () => {
  const empty = (shape: readonly number[], dtype?: "float16" | "int32") => fa.empty({ shape, dtype });
  const inputs: readonly (readonly [string, () => Tensor, FaErrorCode, string])[] = [
    ["an array", () => anything(new Float32Array(2 * 3 * E)), "FA_TENSOR", "must be a tensor of the module's instance"],
    ["nothing", () => anything(undefined), "FA_TENSOR", "got undefined."],
    ["another instance's", () => foreign, "FA_TENSOR", "got a tensor of another Attention."],
    ["disposed", () => disposed, "FA_DISPOSED", "must not be disposed; got a disposed tensor [2, 3, 48]."],
    ["float16", () => empty([2, 3, E], "float16"), "FA_DTYPE", "dtype must be the module's, float32; got float16."],
    ["int32", () => empty([2, 3, E], "int32"), "FA_DTYPE", "got int32."],
  ];
  refuses([
    ...["forward", "forwardTraining"].flatMap((method) => {
      const call = (tensor: () => Tensor) => () => mha[method as "forward"](tensor());
      return [
        ...inputs.map(
          ([name, tensor, code, message]) =>
            [
              `${method}: x ${name}`,
              call(tensor),
              code,
              new RegExp(`^FlashMHA.${method}\\(x\\).*${escape(message)}`),
            ] as const,
        ),
        [
          `${method}: x of rank 2`,
          call(() => empty([6, E])),
          "FA_SHAPE",
          "(x): shape must be [B, S, 48]; got [6, 48].",
        ],
        [`${method}: x of rank 4`, call(() => empty([2, 3, 4, 12])), "FA_SHAPE", "got [2, 3, 4, 12]."],
        [`${method}: x of other width`, call(() => empty([2, 3, 47])), "FA_SHAPE", "got [2, 3, 47]."],
      ] as Row[];
    }),
    ...inputs.map(([name, tensor, code, message]): Row => [
      `backward: dout ${name}`,
      async () => {
        const { saved } = await mha.forwardTraining(x);
        const error = await errorOf(() => mha.backward(saved, tensor()));
        // A wrong dout does not use the forward up: this would throw another error.
        await mha.backward(saved, x);
        throw error;
      },
      code,
      new RegExp(`^FlashMHA.backward\\(dout\\).*${escape(message)}`),
    ]),
    [
      "backward: dout of another length",
      async () => mha.backward((await mha.forwardTraining(x)).saved, empty([2, 4, E])),
      "FA_SHAPE",
      "FlashMHA.backward(dout): shape must be [2, 3, 48]; got [2, 4, 48].",
    ],
    [
      "a misspelt training option",
      () => mha.forwardTraining(x, anything({ ofset: 1 })),
      "FA_OPTION",
      `Did you mean "offset"?`,
    ],
    [
      "a negative offset",
      () => mha.forwardTraining(x, { offset: -1 }),
      "FA_OPTION",
      "offset must be an integer from 0 to 2^32 - 1; got -1.",
    ],
    ["an offset of 2^32", () => mha.forwardTraining(x, { offset: 2 ** 32 }), "FA_OPTION", "got 4294967296."],
    [
      "a seed that is no integer",
      () => mha.forwardTraining(x, { seed: 1.5 }),
      "FA_OPTION",
      "FlashMHA.forwardTraining(seed)",
    ],
    [
      "setParameters: an unknown name",
      () => mha.setParameters(anything({ "Wqkv.wieght": x })),
      "FA_OPTION",
      `Did you mean "Wqkv.weight"?`,
    ],
    [
      "setParameters: a wrong shape among right ones",
      () => mha.setParameters({ "out_proj.bias": empty([E]), "out_proj.weight": empty([E, E + 1]) }),
      "FA_SHAPE",
      "FlashMHA.setParameters(out_proj.weight): shape must be [48, 48]; got [48, 49].",
    ],
    [
      "setParameters: a bias for a module without",
      () => new FlashMHA(fa, { ...CONFIG, bias: false }).setParameters({ "out_proj.bias": empty([E]) }),
      "FA_OPTION",
      `unknown option "out_proj.bias"`,
    ],
    [
      "setParameters: a disposed tensor",
      () => mha.setParameters({ "Wqkv.bias": disposed }),
      "FA_DISPOSED",
      "(Wqkv.bias)",
    ],
  ]);
});

describe("what was saved", () => {
  const saved = async (): Promise<SavedForward> => (await mha.forwardTraining(x)).saved;
  refuses([
    [
      "used twice",
      async () => {
        const once = await saved();
        await mha.backward(once, x);
        return mha.backward(once, x);
      },
      "FA_DISPOSED",
      "FlashMHA.backward(saved): saved must be used once, before it is disposed; got one that backward has used.",
    ],
    [
      "used twice at once",
      async () => {
        const once = await saved();
        const first = mha.backward(once, x);
        const second = await errorOf(() => mha.backward(once, x));
        await first;
        throw second;
      },
      "FA_DISPOSED",
      "got one that backward has used.",
    ],
    [
      "used after dispose",
      async () => {
        const once = await saved();
        once.dispose();
        return mha.backward(once, x);
      },
      "FA_DISPOSED",
      "got a disposed one.",
    ],
    [
      "another module's",
      async () => new FlashMHA(fa, CONFIG).backward(await saved(), x),
      "FA_TENSOR",
      "saved must come from this module's forwardTraining; got one of another module.",
    ],
    [
      "something else",
      async () => mha.backward(anything(await mha.forwardTraining(x)), x),
      "FA_TENSOR",
      "got { out, saved }.",
    ],
  ]);
});

describe("a disposed module", () => {
  const gone = (use: (module: FlashMHA) => unknown) => () => {
    const module = new FlashMHA(fa, CONFIG);
    module.dispose();
    expect(module.disposed).toBe(true);
    return use(module);
  };
  refuses([
    ["forward", gone((module) => module.forward(x)), "FA_DISPOSED", "FlashMHA.forward: the module"],
    ["forwardTraining", gone((module) => module.forwardTraining(x)), "FA_DISPOSED", "got a disposed FlashMHA."],
    ["parameters", gone((module) => module.parameters()), "FA_DISPOSED", "FlashMHA.parameters"],
    ["setParameters", gone((module) => module.setParameters({})), "FA_DISPOSED", "FlashMHA.setParameters"],
    ["toSafetensors", gone((module) => module.toSafetensors()), "FA_DISPOSED", "FlashMHA.toSafetensors"],
    [
      "loadSafetensors",
      gone((module) => module.loadSafetensors(goldenFile("mha-pytorch.safetensors"))),
      "FA_DISPOSED",
      "FlashMHA.loadSafetensors",
    ],
    [
      "backward",
      async () => {
        const module = new FlashMHA(fa, CONFIG);
        const { saved } = await module.forwardTraining(x);
        module.dispose();
        const error = await errorOf(() => module.backward(saved, x));
        saved.dispose();
        throw error;
      },
      "FA_DISPOSED",
      "FlashMHA.backward",
    ],
    [
      "whose instance is disposed",
      async () => {
        const closing = await open(reference());
        const module = new FlashMHA(closing, CONFIG);
        await closing.dispose();
        module.dispose();
        return module.forward(x);
      },
      "FA_DISPOSED",
      "FlashMHA.forward",
    ],
    [
      "whose instance is disposed before it",
      async () => {
        const closing = await open(reference());
        const module = new FlashMHA(closing, CONFIG);
        await closing.dispose();
        return module.forward(x);
      },
      "FA_DISPOSED",
      "got a disposed Attention.",
    ],
  ]);
});

describe("weight files", () => {
  const flashAttn = readSafetensors(goldenFile("mha-flash-attn.safetensors"));
  const pytorch = readSafetensors(goldenFile("mha-pytorch.safetensors"));

  /** A file with some tensors added, replaced or (undefined) removed. */
  function edited(
    source: ReadonlyMap<string, StoredTensor>,
    edits: Readonly<Record<string, StoredTensor | undefined>>,
    prefix = "",
  ): Uint8Array {
    const entries = Object.entries({ ...Object.fromEntries(source), ...edits });
    return writeSafetensors(
      new Map(entries.flatMap(([name, tensor]) => (tensor ? [[prefix + name, tensor] as const] : []))),
    );
  }
  const zeros = (shape: readonly number[], dtype: StoredTensor["dtype"] = "float32"): StoredTensor => ({
    dtype,
    shape,
    bytes: new Uint8Array(
      shape.reduce((product, size) => product * size, dtype === "bool" ? 1 : dtype === "float16" ? 2 : 4),
    ),
  });
  const load =
    (bytes: Uint8Array, options?: Parameters<FlashMHA["loadSafetensors"]>[1], config?: Partial<FlashMHAConfig>) => () =>
      config
        ? FlashMHA.fromSafetensors(fa, bytes, { ...CONFIG, ...config }, options)
        : mha.loadSafetensors(bytes, options);
  const weight = flashAttn.get("Wqkv.weight")!;
  const big = { ...zeros([E]), bytes: new Uint8Array(Float32Array.from({ length: E }, () => -70_000).buffer) };

  refuses([
    [
      "a misspelt name",
      load(edited(flashAttn, { "Wqkv.weight": undefined, "Wqkv.wieght": weight })),
      "FA_TENSOR",
      `FlashMHA.loadSafetensors(Wqkv.weight): the file must hold Wqkv.weight [144, 48]; got no such name, the nearest is "Wqkv.wieght".`,
    ],
    [
      "a misspelt name in PyTorch's naming",
      load(edited(pytorch, { in_proj_weight: undefined, in_proj_wieght: weight })),
      "FA_TENSOR",
      `the file must hold in_proj_weight [144, 48]; got no such name, the nearest is "in_proj_wieght".`,
    ],
    [
      "no bias",
      load(edited(flashAttn, { "Wqkv.bias": undefined, "out_proj.bias": undefined })),
      "FA_TENSOR",
      /\(Wqkv\.bias\): the file must hold Wqkv\.bias \[144\]; got no such name\. Make the module with bias: false/,
    ],
    [
      "a bias too many",
      load(goldenFile("mha-flash-attn.safetensors"), {}, { bias: false }),
      "FA_TENSOR",
      `FlashMHA.fromSafetensors(Wqkv.bias): the names must be Wqkv.weight, out_proj.weight (bias: false); got "Wqkv.bias" [144] besides`,
    ],
    [
      "an unexpected name",
      load(edited(flashAttn, { "out_proj.bais": zeros([E]) })),
      "FA_TENSOR",
      `(out_proj.bais): the names must be Wqkv.weight, Wqkv.bias, out_proj.weight, out_proj.bias; got "out_proj.bais" [48] besides, nearest to "out_proj.bias".`,
    ],
    [
      "both namings at once",
      load(edited(pytorch, { "Wqkv.weight": weight })),
      "FA_TENSOR",
      `got "Wqkv.weight" [144, 48] besides`,
    ],
    [
      "a wrong shape",
      load(edited(flashAttn, { "Wqkv.weight": zeros([48, 144]) })),
      "FA_SHAPE",
      "(Wqkv.weight): shape must be [144, 48] for embedDim 48, numHeads 4, numHeadsKv 4; got [48, 144].",
    ],
    [
      "a wrong shape after right ones",
      load(edited(flashAttn, { "out_proj.bias": zeros([E, 1]) })),
      "FA_SHAPE",
      "(out_proj.bias): shape must be [48] for embedDim 48, numHeads 4, numHeadsKv 4; got [48, 1].",
    ],
    [
      "weights of another count of key heads",
      load(goldenFile("mha-flash-attn.safetensors"), {}, { numHeadsKv: 2 }),
      "FA_SHAPE",
      "shape must be [96, 48] for embedDim 48, numHeads 4, numHeadsKv 2; got [144, 48].",
    ],
    [
      "separate projections",
      load(
        edited(pytorch, {
          in_proj_weight: undefined,
          q_proj_weight: zeros([E, E]),
          k_proj_weight: zeros([E, 32]),
          v_proj_weight: zeros([E, 32]),
        }),
      ),
      "FA_UNSUPPORTED",
      "FlashMHA.loadSafetensors(q_proj_weight): q, k and v must be projected by one in_proj_weight; got separate weights",
    ],
    [
      "integers",
      load(edited(flashAttn, { "Wqkv.bias": zeros([144], "int32") })),
      "FA_DTYPE",
      "(Wqkv.bias): weights must be of a float dtype; got int32.",
    ],
    [
      "bools",
      load(edited(flashAttn, { "out_proj.bias": zeros([E], "bool") })),
      "FA_DTYPE",
      "(out_proj.bias): weights must be of a float dtype; got bool.",
    ],
    [
      "weights beyond the module's dtype",
      load(edited(flashAttn, { "out_proj.bias": big }), {}, { dtype: "float16" }),
      "FA_DTYPE",
      "(out_proj.bias): weights must be within the range of the module's dtype, float16; got 70000.",
    ],
    [
      "a prefix that is not there",
      load(edited(flashAttn, {}, "layers.0.attn."), { prefix: "layers.1.attn" }),
      "FA_TENSOR",
      `(layers.1.attn.Wqkv.weight): the file must hold layers.1.attn.Wqkv.weight [144, 48]; got no such name, the nearest is "layers.0.attn.Wqkv.weight".`,
    ],
    [
      "no prefix where there is one",
      load(edited(flashAttn, {}, "attn.")),
      "FA_TENSOR",
      `the file must hold Wqkv.weight [144, 48]; got no such name, the nearest is "attn.Wqkv.weight". Check the prefix`,
    ],
    [
      "a prefix that is no string",
      load(edited(flashAttn, {}), anything({ prefix: 0 })),
      "FA_OPTION",
      "(prefix): prefix must be a string; got 0.",
    ],
    ["a misspelt option", load(edited(flashAttn, {}), anything({ prefx: "a" })), "FA_OPTION", `Did you mean "prefix"?`],
    [
      "options that are a string",
      load(edited(flashAttn, {}), anything("attn")),
      "FA_OPTION",
      "FlashMHA.loadSafetensors(options)",
    ],
    [
      "a file cut short",
      load(goldenFile("mha-pytorch.safetensors").subarray(0, 20_000)),
      "FA_TENSOR",
      "the file must be whole",
    ],
    ["an empty file", load(new Uint8Array(0)), "FA_TENSOR", "got 0 bytes"],
    ["a path", load(anything("weights.safetensors")), "FA_TENSOR", "must be a Uint8Array"],
    [
      "an unknown naming",
      () => mha.toSafetensors({ naming: anything("torch") }),
      "FA_OPTION",
      `naming must be "flash-attn" or "pytorch"; got "torch".`,
    ],
    [
      "PyTorch's naming for grouped heads",
      () => new FlashMHA(fa, { ...CONFIG, numHeadsKv: 1 }).toSafetensors({ naming: "pytorch" }),
      "FA_OPTION",
      "nn.MultiheadAttention has as many key/value heads as query heads; got embedDim 48, numHeads 4, numHeadsKv 1.",
    ],
  ]);

  test("a refused file allocates nothing that stays", async () => {
    await using fresh = await open(reference());
    const module = new FlashMHA(fresh, { ...CONFIG, dtype: "float16" });
    const before = fresh.memory().currentBytes;
    for (const edits of [
      { "out_proj.bias": big },
      { "out_proj.bias": zeros([E], "int32") },
      { "out_proj.bias": zeros([1]) },
    ]) {
      expect(await errorOf(() => module.loadSafetensors(edited(flashAttn, edits)))).toBeInstanceOf(FaError);
      expect(fresh.memory().currentBytes).toBe(before);
    }
  });

  test("names outside the prefix are not looked at", () => {
    const layer = edited(flashAttn, { "Wqkv.weight": weight }, "layers.1.");
    const file = edited(readSafetensors(layer), {
      "layers.10.Wqkv.weight": zeros([1]),
      "embed.weight": zeros([2, 2], "int32"),
    });
    using module = FlashMHA.fromSafetensors(fa, file, CONFIG, { prefix: "layers.1" });
    expect(module.parameters()["Wqkv.weight"].shape).toEqual([144, 48]);
  });
});

function escape(text: string): string {
  return text.replace(/[.[\]()]/g, "\\$&");
}
