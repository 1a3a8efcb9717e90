/**
 * Bad input as data: what is called, and the four parts that the error's message must have, in their order:
 * `where: rule; got received. fix`. Shapes of good tensors: q [1, 2, 3, 4], k and v [1, 2, 3, 4], see `World`.
 */
import type { FaErrorCode } from "../src/errors.ts";
import type { DType } from "../src/dtype.ts";
import type { Tensor } from "../src/tensor.ts";

type Call = (...args: unknown[]) => unknown;

/** The public interface without its types, as plain JavaScript sees it. */
export interface Loose {
  readonly createAttention: Call;
  readonly autoCreateAttention: Call;
  readonly reference: Call;
  readonly readSafetensors: Call;
  readonly writeSafetensors: Call;
  readonly fa: Readonly<Record<(typeof METHODS)[number], Call>>;
}

export const METHODS = [
  "tensor",
  "empty",
  "cast",
  "attention",
  "attentionBackward",
  "linear",
  "linearSplit",
  "linearBackward",
  "plan",
  "sync",
  "memory",
  "roof",
] as const;

/** What a case may use. Tensors made by `of` are disposed after the case. */
export interface World extends Loose {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  /** A tensor of another instance, shaped like q. */
  readonly foreign: Tensor;
  /** An instance that was disposed, and a tensor that it made. */
  readonly closed: Loose["fa"] & { readonly tensorOfIt: Tensor };
  /** A tensor of the instance under test. */
  of(shape: readonly number[], dtype?: DType): Tensor;
  /** The same, disposed. */
  disposed(shape: readonly number[], dtype?: DType): Tensor;
}

export interface BadInput {
  readonly name: string;
  readonly run: (w: World) => unknown;
  readonly code: FaErrorCode;
  readonly where: string;
  readonly rule: string;
  readonly got: string;
  readonly fix: string;
}

type Parts = readonly [where: string, rule: string, got: string, fix: string];

function bad(name: string, run: BadInput["run"], code: FaErrorCode, [where, rule, got, fix]: Parts): BadInput {
  return { name, run, code, where, rule, got, fix };
}

const f32 = (length: number): Float32Array => new Float32Array(length);

// ---- createAttention, reference()

const provider = (name: string, reason: string) => ({
  name,
  probe: async () => ({ ok: false, reason }),
  open: async () => {
    throw new Error("opened though its probe failed");
  },
});

const creating: BadInput[] = [
  bad("createAttention: no options", (w) => w.createAttention(), "FA_OPTION", [
    "createAttention(options)",
    "options must be an object",
    "undefined",
    "Pass { backends: ... }",
  ]),
  bad("createAttention: null", (w) => w.createAttention(null), "FA_OPTION", [
    "createAttention(options)",
    "options must be an object",
    "null",
    "Pass { backends: ... }",
  ]),
  bad("createAttention: the list itself", (w) => w.createAttention([w.reference()]), "FA_OPTION", [
    "createAttention(options)",
    "options must be an object",
    "[{ name, probe, open }]",
    "Pass { backends: ... }",
  ]),
  bad("createAttention: no backends", (w) => w.createAttention({}), "FA_OPTION", [
    "createAttention(backends)",
    "an array of one or more providers",
    "undefined",
    "Pass [wasm(), reference()]",
  ]),
  bad("createAttention: an empty list", (w) => w.createAttention({ backends: [] }), "FA_OPTION", [
    "createAttention(backends)",
    "an array of one or more providers",
    "[]",
    "Pass [wasm(), reference()]",
  ]),
  bad(
    "createAttention: one provider without a list",
    (w) => w.createAttention({ backends: w.reference() }),
    "FA_OPTION",
    [
      "createAttention(backends)",
      "an array of one or more providers",
      "{ name, probe, open }",
      "Pass [wasm(), reference()]",
    ],
  ),
  bad(
    "createAttention: a function that was not called",
    (w) => w.createAttention({ backends: [w.reference] }),
    "FA_OPTION",
    [
      "createAttention(backends[0])",
      "each back end must be a provider",
      "a function",
      "Call it: wasm() instead of wasm.",
    ],
  ),
  bad(
    "createAttention: a name for a provider",
    (w) => w.createAttention({ backends: [w.reference(), "wasm"] }),
    "FA_OPTION",
    [
      "createAttention(backends[1])",
      "each back end must be a provider",
      `"wasm"`,
      "Pass what wasm() or reference() returns.",
    ],
  ),
  bad("createAttention: a hole in the list", (w) => w.createAttention({ backends: Array(1) }), "FA_OPTION", [
    "createAttention(backends[0])",
    "each back end must be a provider",
    "undefined",
    "Pass what wasm() or reference() returns.",
  ]),
  bad(
    "createAttention: a provider without a name",
    (w) => w.createAttention({ backends: [{ probe: async () => ({ ok: true }), open: async () => ({}) }] }),
    "FA_OPTION",
    ["createAttention(backends[0])", "each back end must be a provider", "{ probe, open }", "Pass what wasm()"],
  ),
  bad(
    "createAttention: a misspelt option",
    (w) => w.createAttention({ backends: [w.reference()], selcet: "measured" }),
    "FA_OPTION",
    [
      "createAttention(options)",
      "every option must be a known one",
      `unknown option "selcet"`,
      `Did you mean "select"?`,
    ],
  ),
  bad(
    "createAttention: an option that is like none",
    (w) => w.createAttention({ backends: [w.reference()], verbosity: 3 }),
    "FA_OPTION",
    [
      "createAttention(options)",
      "every option must be a known one",
      `unknown option "verbosity"`,
      "Known options: backends, select, problem, store.",
    ],
  ),
  bad(
    "createAttention: an unknown way to select",
    (w) => w.createAttention({ backends: [w.reference()], select: "fastest" }),
    "FA_OPTION",
    ["createAttention(select)", `"preference" or "measured"`, `"fastest"`, "Leave it out"],
  ),
  bad(
    "createAttention: select null",
    (w) => w.createAttention({ backends: [w.reference()], select: null }),
    "FA_OPTION",
    ["createAttention(select)", `"preference" or "measured"`, "null", "Leave it out"],
  ),
  bad(
    "createAttention: a problem that nothing is measured on",
    (w) => w.createAttention({ backends: [w.reference()], problem: { Sq: 64 } }),
    "FA_OPTION",
    ["createAttention(problem)", `goes with select: "measured"`, `select "preference"`, `Pass select: "measured".`],
  ),
  bad(
    "createAttention: a store that nothing is kept in",
    (w) => w.createAttention({ backends: [w.reference()], store: new Map() }),
    "FA_OPTION",
    ["createAttention(store)", `goes with select: "measured"`, `select "preference"`, `Pass select: "measured".`],
  ),
  bad(
    "createAttention, measured: a store with other methods",
    (w) => w.createAttention({ backends: [w.reference()], select: "measured", store: new Map() }),
    "FA_OPTION",
    ["createAttention(store)", "getItem(key) and setItem(key, value)", "a Map", "Pass localStorage"],
  ),
  ...(
    [
      ["null", null, "problem", "problem must be an object", "null", "Pass { B: ... }"],
      ["a misspelt size", { skv: 5 }, "problem", "a known one", `unknown option "skv"`, `Did you mean "Skv"?`],
      ["a negative size", { Sq: -5 }, "problem.Sq", "an integer from 0", "-5", "Leave it out"],
      ["a size that is a string", { D: "64" }, "problem.D", "an integer from 0", `"64"`, "Leave it out"],
      [
        "an unknown dtype",
        { dtype: "fp16" },
        "problem.dtype",
        "dtype must be one of",
        `"fp16"`,
        "Use one of these names.",
      ],
      [
        "a tensor among the options",
        { options: { bias: {} } },
        "problem.options.bias",
        "left out",
        "{  }",
        "Measure without it",
      ],
    ] as const
  ).map(([name, problem, where, rule, got, fix]) =>
    bad(
      `createAttention, measured: a problem that is ${name}`,
      (w) => w.createAttention({ backends: [w.reference()], select: "measured", problem }),
      where === "problem.dtype" ? "FA_DTYPE" : "FA_OPTION",
      [`createAttention(${where})`, rule, got, fix],
    ),
  ),
  bad(
    "createAttention, measured: a problem whose options are null",
    (w) => w.createAttention({ backends: [w.reference()], select: "measured", problem: { options: null } }),
    "FA_OPTION",
    ["attention(options)", "options must be an object", "null", "Pass {"],
  ),
  bad(
    "createAttention, measured: a problem with D over 256",
    (w) => w.createAttention({ backends: [w.reference()], select: "measured", problem: { D: 300 } }),
    "FA_UNSUPPORTED",
    ["attention(q)", "head dim D must be at most 256", "D=300", "Split the features"],
  ),
  bad(
    "createAttention: every candidate fails, and the error says why each did",
    (w) => w.createAttention({ backends: [provider("cuda", "no NVIDIA driver"), provider("webgpu", "no adapter")] }),
    "FA_UNAVAILABLE",
    [
      "createAttention(backends)",
      "one back end must work here",
      "none: cuda (no NVIDIA driver); webgpu (no adapter)",
      "Add reference()",
    ],
  ),
  bad(
    "createAttention, measured: every candidate fails",
    (w) => w.createAttention({ backends: [provider("cuda", "no NVIDIA driver")], select: "measured" }),
    "FA_UNAVAILABLE",
    ["createAttention(backends)", "one back end must work here", "none: cuda (no NVIDIA driver)", "Add reference()"],
  ),
  bad("auto: null", (w) => w.autoCreateAttention(null), "FA_OPTION", [
    "createAttention(options)",
    "options must be an object",
    "null",
    "Pass { select: ... }",
  ]),
  bad("auto: backends, which it finds itself", (w) => w.autoCreateAttention({ backends: [] }), "FA_OPTION", [
    "createAttention(options)",
    "every option must be a known one",
    `unknown option "backends"`,
    "Known options: select, problem, store, import.",
  ]),
  bad("auto: an import that is no function", (w) => w.autoCreateAttention({ import: "node" }), "FA_OPTION", [
    "createAttention(import)",
    "import must be a function",
    `"node"`,
    "Pass (name) => import(name).",
  ]),
  bad("reference: null", (w) => w.reference(null), "FA_OPTION", [
    "reference(options)",
    "options must be an object",
    "null",
    "Pass { algorithm: ... }",
  ]),
  bad("reference: a name for options", (w) => w.reference("naive"), "FA_OPTION", [
    "reference(options)",
    "options must be an object",
    `"naive"`,
    "Pass { algorithm: ... }",
  ]),
  bad("reference: a misspelt option", (w) => w.reference({ algorithim: "naive" }), "FA_OPTION", [
    "reference(options)",
    "a known one",
    `unknown option "algorithim"`,
    `Did you mean "algorithm"?`,
  ]),
  bad("reference: an unknown algorithm", (w) => w.reference({ algorithm: "flash" }), "FA_OPTION", [
    "reference(algorithm)",
    `"tiled" or "naive"`,
    `"flash"`,
    "Leave it out for tiled.",
  ]),
  bad(
    "reference: an algorithm named like a method of every object",
    (w) => w.reference({ algorithm: "toString" }),
    "FA_OPTION",
    ["reference(algorithm)", `"tiled" or "naive"`, `"toString"`, "Leave it out for tiled."],
  ),
];

// ---- tensor, empty

function detached(): Float32Array {
  const data = f32(4);
  structuredClone(data.buffer, { transfer: [data.buffer] });
  return data;
}

function detachedDataView(): DataView {
  const view = new DataView(new ArrayBuffer(4));
  structuredClone(view.buffer, { transfer: [view.buffer] });
  return view;
}

const revoked = (): object => {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return proxy;
};

function cyclic(): unknown[] {
  const list: unknown[] = [];
  list.push(list, list, list, list, list, list, list, list);
  return list;
}

const WRONG_DATA: readonly (readonly [name: string, data: () => unknown, got: string])[] = [
  ["an Array", () => [1, 2, 3, 4], "[1, 2, 3, 4]"],
  ["a Float64Array", () => new Float64Array(4), "Float64Array(4)"],
  ["an Int8Array", () => new Int8Array(4), "Int8Array(4)"],
  ["an Int16Array", () => new Int16Array(4), "Int16Array(4)"],
  ["a Uint32Array", () => new Uint32Array(4), "Uint32Array(4)"],
  ["a Uint8ClampedArray", () => new Uint8ClampedArray(4), "Uint8ClampedArray(4)"],
  ["a BigInt64Array", () => new BigInt64Array(4), "BigInt64Array(4)"],
  ["an ArrayBuffer", () => new ArrayBuffer(16), "an ArrayBuffer"],
  ["a DataView", () => new DataView(new ArrayBuffer(16)), "DataView(16)"],
  ["a detached DataView", detachedDataView, "an object that cannot be read"],
  ["a revoked proxy", revoked, "an object that cannot be read"],
  [
    "an object that calls itself a Float32Array",
    () => ({ [Symbol.toStringTag]: "Float32Array", length: 4 }),
    "a Float32Array",
  ],
  ["a string", () => "1 2 3 4", `"1 2 3 4"`],
  ["a number", () => 4, "4"],
  ["null", () => null, "null"],
  ["undefined", () => undefined, "undefined"],
];

const WRONG_SHAPES: readonly (readonly [name: string, shape: () => unknown, got: string])[] = [
  ["missing", () => undefined, "undefined"],
  ["null", () => null, "null"],
  ["a number", () => 4, "4"],
  ["a string", () => "4", `"4"`],
  ["an object", () => ({ 0: 4, length: 1 }), "{ 0, length }"],
  ["a typed array", () => Uint32Array.of(4), "Uint32Array(1)"],
  ["negative", () => [4, -1], "[4, -1]"],
  ["a fraction", () => [1.5, 2], "[1.5, 2]"],
  ["NaN", () => [NaN], "[NaN]"],
  ["Infinity", () => [Infinity], "[Infinity]"],
  ["beyond the safe integers", () => [2 ** 53], "[9007199254740992]"],
  ["a string inside", () => ["4"], `["4"]`],
  ["null inside", () => [null, 4], "[null, 4]"],
  ["a bigint inside", () => [4n], "[4n]"],
  ["nested", () => [[4]], "[[4]]"],
  ["an array of itself", cyclic, "[[["],
  ["sparse", () => [4, , 1], "[4, undefined, 1]"], // oxlint-disable-line no-sparse-arrays
  ["of rank 9", () => [1, 1, 1, 1, 1, 1, 1, 1, 4], "[1, 1, 1, 1, 1, 1, 1, 1, ...]"],
];

const OVERFLOWS: readonly (readonly [name: string, shape: readonly number[]])[] = [
  ["overflows 2^53 bytes", [2 ** 26, 2 ** 26]],
  ["overflows 2^64", [2 ** 33, 2 ** 33]],
  ["overflows float64", Array<number>(8).fill(2 ** 52)],
];

const making: BadInput[] = [
  ...WRONG_DATA.map(([name, data, got]) =>
    bad(`tensor: data is ${name}`, (w) => w.fa.tensor(data(), { shape: [4] }), "FA_DTYPE", [
      "tensor(data)",
      "data must be a Float32Array, Float16Array, Uint16Array, Uint8Array or Int32Array",
      got,
      "Convert it, for example with Float32Array.from(data).",
    ]),
  ),
  ...WRONG_SHAPES.flatMap(([name, shape, got]) => {
    const parts: Parts = [
      "tensor(shape)",
      "an array of at most 8 integers from 0",
      got,
      "Pass { shape: [B, H, S, D] }.",
    ];
    return [
      bad(`tensor: the shape is ${name}`, (w) => w.fa.tensor(f32(4), { shape: shape() }), "FA_SHAPE", parts),
      bad(`empty: the shape is ${name}`, (w) => w.fa.empty({ shape: shape() }), "FA_SHAPE", [
        "empty(shape)",
        ...(parts.slice(1) as [string, string, string]),
      ]),
    ];
  }),
  ...OVERFLOWS.flatMap(([name, shape]) => {
    const parts = [
      "the product of the sizes must be an exact number of bytes, below 2^53",
      `[${shape[0]}, `,
      "Check the sizes.",
    ] as const;
    return [
      bad(`tensor: the product of the shape ${name}`, (w) => w.fa.tensor(f32(4), { shape }), "FA_SHAPE", [
        "tensor(shape)",
        ...parts,
      ]),
      bad(`empty: the product of the shape ${name}`, (w) => w.fa.empty({ shape }), "FA_SHAPE", [
        "empty(shape)",
        ...parts,
      ]),
    ];
  }),
  bad("empty: more than the host's memory", (w) => w.fa.empty({ shape: [2 ** 20, 2 ** 28] }), "FA_OUT_OF_MEMORY", [
    "reference",
    "a tensor must fit in host memory",
    `${2 ** 50} bytes`,
    "Dispose tensors or use smaller ones.",
  ]),
  bad("tensor: data too short for the shape", (w) => w.fa.tensor(f32(3), { shape: [2, 2] }), "FA_SHAPE", [
    "tensor(data)",
    "data must hold as many elements as shape [2, 2], 4",
    "3",
    "Check the shape",
  ]),
  bad("tensor: data too long for the shape", (w) => w.fa.tensor(f32(5), { shape: [2, 2] }), "FA_SHAPE", [
    "tensor(data)",
    "data must hold as many elements as shape [2, 2], 4",
    "5",
    "data.subarray()",
  ]),
  bad("tensor: data for a scalar", (w) => w.fa.tensor(f32(0), { shape: [] }), "FA_SHAPE", [
    "tensor(data)",
    "as many elements as shape [], 1",
    "0",
    "Check the shape",
  ]),
  bad("tensor: data for an empty shape", (w) => w.fa.tensor(f32(4), { shape: [4, 0] }), "FA_SHAPE", [
    "tensor(data)",
    "as many elements as shape [4, 0], 0",
    "4",
    "Check the shape",
  ]),
  bad("tensor: a Uint16Array without a dtype", (w) => w.fa.tensor(new Uint16Array(4), { shape: [4] }), "FA_DTYPE", [
    "tensor(dtype)",
    `a Uint16Array needs a dtype, "float16" or "bfloat16"`,
    "none",
    `Pass { shape, dtype: "float16" }.`,
  ]),
  ...(
    [
      [new Float32Array(4), "float16", `a Float32Array holds "float32"`],
      [new Uint16Array(4), "float32", `a Uint16Array holds "float16" or "bfloat16"`],
      [new Uint8Array(4), "int32", `a Uint8Array holds "bool" or "float8e4m3"`],
      [new Int32Array(4), "float32", `a Int32Array holds "int32"`],
    ] as const
  ).map(([data, dtype, rule]) =>
    bad(`tensor: ${data.constructor.name} as ${dtype}`, (w) => w.fa.tensor(data, { shape: [4], dtype }), "FA_DTYPE", [
      "tensor(dtype)",
      rule,
      `"${dtype}"`,
      "use fa.cast",
    ]),
  ),
  ...(
    [
      ["unknown", "fp16", `"fp16"`],
      ["null", null, "null"],
      ["a number", 16, "16"],
    ] as const
  ).flatMap(([name, dtype, got]) => {
    const parts = [
      "dtype must be one of float32, float16, bfloat16, float8e4m3, int32, bool",
      got,
      "Use one of these names.",
    ] as const;
    return [
      bad(`tensor: the dtype is ${name}`, (w) => w.fa.tensor(f32(4), { shape: [4], dtype }), "FA_DTYPE", [
        "tensor(dtype)",
        ...parts,
      ]),
      bad(`empty: the dtype is ${name}`, (w) => w.fa.empty({ shape: [4], dtype }), "FA_DTYPE", [
        "empty(dtype)",
        ...parts,
      ]),
    ];
  }),
  bad("tensor: a detached buffer", (w) => w.fa.tensor(detached(), { shape: [4] }), "FA_TENSOR", [
    "tensor(data)",
    "the buffer must be attached",
    "a view on a detached ArrayBuffer",
    "It was transferred, or wasm memory grew",
  ]),
  bad(
    "tensor: a detached buffer, and the shape that its length fits",
    (w) => w.fa.tensor(detached(), { shape: [0] }),
    "FA_TENSOR",
    ["tensor(data)", "the buffer must be attached", "a view on a detached ArrayBuffer", "make the view anew"],
  ),
  bad(
    "tensor: a resizable buffer",
    (w) => w.fa.tensor(new Float32Array(new ArrayBuffer(16, { maxByteLength: 32 })), { shape: [4] }),
    "FA_TENSOR",
    [
      "tensor(data)",
      "the buffer must have a fixed length",
      "a view on a resizable ArrayBuffer",
      "Copy it with data.slice().",
    ],
  ),
  bad("tensor: no options", (w) => w.fa.tensor(f32(4)), "FA_OPTION", [
    "tensor(options)",
    "options must be an object",
    "undefined",
    "Pass { shape: ... }; it may hold shape, dtype.",
  ]),
  bad("tensor: the shape in place of the options", (w) => w.fa.tensor(f32(4), [2, 2]), "FA_OPTION", [
    "tensor(options)",
    "options must be an object",
    "[2, 2]",
    "Pass { shape: ... }",
  ]),
  bad("tensor: a misspelt option", (w) => w.fa.tensor(f32(4), { shape: [4], dtpye: "float32" }), "FA_OPTION", [
    "tensor(options)",
    "every option must be a known one",
    `unknown option "dtpye"`,
    `Did you mean "dtype"?`,
  ]),
  bad("empty: no options", (w) => w.fa.empty(), "FA_OPTION", [
    "empty(options)",
    "options must be an object",
    "undefined",
    "Pass { shape: ... }",
  ]),
  bad("empty: a misspelt option", (w) => w.fa.empty({ shap: [4] }), "FA_OPTION", [
    "empty(options)",
    "every option must be a known one",
    `unknown option "shap"`,
    `Did you mean "shape"?`,
  ]),
];

// ---- cast, reshape, data

const NOT_TENSORS: readonly (readonly [name: string, value: unknown, got: string])[] = [
  ["undefined", undefined, "undefined"],
  ["null", null, "null"],
  ["a typed array", new Float32Array(24), "Float32Array(24)"],
  ["an object with the same fields", { shape: [1, 2, 3, 4], dtype: "float32" }, "{ shape, dtype }"],
];

const casting: BadInput[] = [
  ...NOT_TENSORS.map(([name, value, got]) =>
    bad(`cast: x is ${name}`, (w) => w.fa.cast(value, "float16"), "FA_TENSOR", [
      "cast(x)",
      "x must be a tensor of this instance",
      got,
      "Make it with fa.tensor",
    ]),
  ),
  bad("cast: no dtype", (w) => w.fa.cast(w.q), "FA_DTYPE", [
    "cast(dtype)",
    "dtype must be one of",
    "undefined",
    "Use one of",
  ]),
  bad("cast: an unknown dtype", (w) => w.fa.cast(w.q, "half"), "FA_DTYPE", [
    "cast(dtype)",
    "dtype must be one of",
    `"half"`,
    "Use one of",
  ]),
  bad("cast: to int32", (w) => w.fa.cast(w.q, "int32"), "FA_DTYPE", [
    "cast(dtype)",
    "both dtypes must be float dtypes",
    "int32",
    "Convert int32 and bool data",
  ]),
  bad("cast: from bool", (w) => w.fa.cast(w.of([4], "bool"), "float32"), "FA_DTYPE", [
    "cast(x)",
    "both dtypes must be float dtypes",
    "bool",
    "Convert int32 and bool data",
  ]),
  bad("cast: a disposed tensor", (w) => w.fa.cast(w.disposed([4]), "float16"), "FA_DISPOSED", [
    "cast(x)",
    "x must not be disposed",
    "a disposed tensor [4]",
    "Dispose tensors after their last use.",
  ]),
  bad("cast: a tensor of another instance", (w) => w.fa.cast(w.foreign, "float16"), "FA_TENSOR", [
    "cast(x)",
    "a tensor of this instance",
    "a tensor of another Attention",
    "Read it with data()",
  ]),
  bad("reshape: another number of elements", (w) => w.q.reshape([5, 5]), "FA_SHAPE", [
    "reshape(shape)",
    "the new shape must have 24 elements, as [1, 2, 3, 4] has",
    "[5, 5] with 25",
    "Check the product",
  ]),
  bad("reshape: -1, as NumPy would infer", (w) => w.q.reshape([-1, 4]), "FA_SHAPE", [
    "reshape(shape)",
    "integers from 0",
    "[-1, 4]",
    "Pass { shape:",
  ]),
  bad("reshape: no shape", (w) => w.q.reshape(undefined as never), "FA_SHAPE", [
    "reshape(shape)",
    "an array of at most 8",
    "undefined",
    "Pass { shape:",
  ]),
  bad("reshape: a product that overflows", (w) => w.q.reshape([2 ** 40, 2 ** 40]), "FA_SHAPE", [
    "reshape(shape)",
    "below 2^53",
    "[1099511627776, 1099511627776]",
    "Check the sizes.",
  ]),
  bad("reshape: a disposed tensor", (w) => w.disposed([4]).reshape([2, 2]), "FA_DISPOSED", [
    "reshape(this)",
    "this must not be disposed",
    "a disposed tensor [4]",
    "after their last use",
  ]),
  bad("data: of a disposed tensor", (w) => w.disposed([4]).data(), "FA_DISPOSED", [
    "data(this)",
    "this must not be disposed",
    "a disposed tensor [4]",
    "after their last use",
  ]),
];

// ---- attention: tensors

const shapes = (q: readonly number[], k: readonly number[], v: readonly number[], options?: object) => (w: World) =>
  w.fa.attention(w.of(q), w.of(k), w.of(v), options);
const bshd = { layout: "bshd" };

const attentionTensors: BadInput[] = [
  ...NOT_TENSORS.map(([name, value, got]) =>
    bad(`attention: q is ${name}`, (w) => w.fa.attention(value, w.k, w.v), "FA_TENSOR", [
      "attention(q)",
      "q must be a tensor of this instance",
      got,
      "Make it with fa.tensor",
    ]),
  ),
  bad("attention: v is missing", (w) => w.fa.attention(w.q, w.k), "FA_TENSOR", [
    "attention(v)",
    "v must be a tensor of this instance",
    "undefined",
    "Make it with fa.tensor",
  ]),
  bad("attention: a promise of a tensor", (w) => w.fa.attention(w.q, Promise.resolve(w.k), w.v), "FA_TENSOR", [
    "attention(k)",
    "k must be a tensor of this instance",
    "a Promise",
    "Make it with fa.tensor",
  ]),
  bad("attention: k was disposed", (w) => w.fa.attention(w.q, w.disposed([1, 2, 3, 4]), w.v), "FA_DISPOSED", [
    "attention(k)",
    "k must not be disposed",
    "a disposed tensor [1, 2, 3, 4]",
    "after their last use",
  ]),
  bad("attention: v of another instance", (w) => w.fa.attention(w.q, w.k, w.foreign), "FA_TENSOR", [
    "attention(v)",
    "a tensor of this instance",
    "a tensor of another Attention",
    "Read it with data()",
  ]),
  bad("attention: v of a disposed instance", (w) => w.fa.attention(w.q, w.k, w.closed.tensorOfIt), "FA_DISPOSED", [
    "attention(v)",
    "v must not be disposed",
    "a disposed tensor [1, 2, 3, 4]",
    "after their last use",
  ]),
  bad("attention: q is a matrix", shapes([3, 4], [3, 4], [3, 4]), "FA_SHAPE", [
    "attention(q)",
    "q must be [B, H, Sq, D], or [B, Sq, D] with one head",
    "[3, 4]",
    "Reshape q to rank 3 or 4.",
  ]),
  bad("attention: q has rank 5", shapes([1, 1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]), "FA_SHAPE", [
    "attention(q)",
    "[B, H, Sq, D]",
    "[1, 1, 2, 3, 4]",
    "Reshape q",
  ]),
  bad("attention: k has rank 3 and q rank 4", shapes([1, 2, 3, 4], [2, 3, 4], [1, 2, 3, 4]), "FA_SHAPE", [
    "attention(k)",
    "k must have the rank of q",
    "k [2, 3, 4], q [1, 2, 3, 4]",
    "Reshape k to rank 4.",
  ]),
  bad("attention: v has rank 4 and q rank 3", shapes([1, 3, 4], [1, 3, 4], [1, 1, 3, 4]), "FA_SHAPE", [
    "attention(v)",
    "v must have the rank of q",
    "v [1, 1, 3, 4], q [1, 3, 4]",
    "Reshape v to rank 3.",
  ]),
  bad("attention: k of another batch", shapes([2, 2, 3, 4], [1, 2, 3, 4], [2, 2, 3, 4]), "FA_SHAPE", [
    "attention(k)",
    "batch size B of k must be that of q",
    "1, q has 2",
    `Give q, k and v the same B. Shapes are read in layout "bhsd".`,
  ]),
  bad("attention: v of another batch, bshd", shapes([2, 3, 2, 4], [2, 3, 2, 4], [1, 3, 2, 4], bshd), "FA_SHAPE", [
    "attention(v)",
    "batch size B of v must be that of q",
    "1, q has 2",
    `Shapes are read in layout "bshd".`,
  ]),
  bad("attention: k of another batch, rank 3", shapes([2, 3, 4], [1, 3, 4], [1, 3, 4]), "FA_SHAPE", [
    "attention(k)",
    "batch size B of k must be that of q",
    "1, q has 2",
    "Give q, k and v the same B.",
  ]),
  bad("attention: k of another head dim", shapes([1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 4]), "FA_SHAPE", [
    "attention(k)",
    "head dim D of k must be that of q",
    "5, q has 4",
    "q.k needs equal head dims.",
  ]),
  bad("attention: k of another head dim, bshd", shapes([1, 3, 2, 4], [1, 3, 2, 5], [1, 3, 2, 4], bshd), "FA_SHAPE", [
    "attention(k)",
    "head dim D of k must be that of q",
    "5, q has 4",
    `layout "bshd"`,
  ]),
  bad("attention: k of another head dim, rank 3", shapes([1, 3, 4], [1, 3, 5], [1, 3, 4]), "FA_SHAPE", [
    "attention(k)",
    "head dim D of k must be that of q",
    "5, q has 4",
    "q.k needs equal head dims.",
  ]),
  bad("attention: fewer values than keys", shapes([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 2, 4]), "FA_SHAPE", [
    "attention(v)",
    "sequence length Skv of v must be that of k",
    "2, k has 3",
    "Each key needs one value.",
  ]),
  bad("attention: more values than keys, bshd", shapes([1, 3, 2, 4], [1, 3, 2, 4], [1, 5, 2, 4], bshd), "FA_SHAPE", [
    "attention(v)",
    "sequence length Skv of v must be that of k",
    "5, k has 3",
    "Each key needs one value.",
  ]),
  bad("attention: more values than keys, rank 3", shapes([1, 3, 4], [1, 3, 4], [1, 5, 4]), "FA_SHAPE", [
    "attention(v)",
    "sequence length Skv of v must be that of k",
    "5, k has 3",
    "Each key needs one value.",
  ]),
  bad("attention: value heads unlike key heads", shapes([1, 4, 3, 4], [1, 2, 3, 4], [1, 4, 3, 4]), "FA_SHAPE", [
    "attention(v)",
    "head count Hkv of v must be that of k",
    "4, k has 2",
    "Each key head needs one value head.",
  ]),
  bad(
    "attention: value heads unlike key heads, bshd",
    shapes([1, 3, 4, 4], [1, 3, 2, 4], [1, 3, 1, 4], bshd),
    "FA_SHAPE",
    ["attention(v)", "head count Hkv of v must be that of k", "1, k has 2", "Each key head needs one value head."],
  ),
  bad("attention: H no multiple of Hkv", shapes([1, 8, 3, 4], [1, 3, 3, 4], [1, 3, 3, 4]), "FA_SHAPE", [
    "attention(k)",
    "Hkv must divide H",
    "Hkv=3, H=8",
    "Repeat K/V heads or pass q with H a multiple of Hkv.",
  ]),
  bad(
    "attention: more key heads than query heads, bshd",
    shapes([1, 3, 2, 4], [1, 3, 4, 4], [1, 3, 4, 4], bshd),
    "FA_SHAPE",
    ["attention(k)", "Hkv must divide H", "Hkv=4, H=2", "Repeat K/V heads"],
  ),
  bad("attention: no query heads", shapes([1, 0, 3, 4], [1, 1, 3, 4], [1, 1, 3, 4]), "FA_SHAPE", [
    "attention(q)",
    "there must be at least one head",
    "H=0, Hkv=1",
    "Check the shape.",
  ]),
  bad("attention: no key heads", shapes([1, 2, 3, 4], [1, 0, 3, 4], [1, 0, 3, 4]), "FA_SHAPE", [
    "attention(k)",
    "there must be at least one head",
    "H=2, Hkv=0",
    "Check the shape.",
  ]),
  bad("attention: D = 0", shapes([1, 2, 3, 0], [1, 2, 3, 0], [1, 2, 3, 4]), "FA_SHAPE", [
    "attention(q)",
    "head dim D must be at least 1",
    "D=0",
    "Give each head at least one feature.",
  ]),
  bad("attention: Dv = 0", shapes([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 0]), "FA_SHAPE", [
    "attention(v)",
    "head dim Dv must be at least 1",
    "Dv=0",
    "Give each head at least one feature.",
  ]),
  bad("attention: D = 257", shapes([1, 1, 1, 257], [1, 1, 1, 257], [1, 1, 1, 4]), "FA_UNSUPPORTED", [
    "attention(q)",
    "head dim D must be at most 256",
    "D=257",
    "Split the features over more heads.",
  ]),
  bad("attention: Dv = 257", shapes([1, 1, 1, 4], [1, 1, 1, 4], [1, 1, 1, 257]), "FA_UNSUPPORTED", [
    "attention(v)",
    "head dim Dv must be at most 256",
    "Dv=257",
    "Split the features over more heads.",
  ]),
  bad("attention: k of another dtype", (w) => w.fa.attention(w.q, w.of([1, 2, 3, 4], "float16"), w.v), "FA_DTYPE", [
    "attention(k)",
    "dtype must be that of q",
    "k float16, q float32",
    `Use fa.cast(k, "float32").`,
  ]),
  bad("attention: v of another dtype", (w) => w.fa.attention(w.q, w.k, w.of([1, 2, 3, 4], "bfloat16")), "FA_DTYPE", [
    "attention(v)",
    "dtype must be that of q",
    "v bfloat16, q float32",
    `Use fa.cast(v, "float32").`,
  ]),
  ...(["int32", "bool"] as const).map((dtype) =>
    bad(
      `attention: q, k and v are ${dtype}`,
      (w) => w.fa.attention(w.of([1, 2, 3, 4], dtype), w.of([1, 2, 3, 4], dtype), w.of([1, 2, 3, 4], dtype)),
      "FA_DTYPE",
      ["attention(q)", "dtype must be one of float32, float16, bfloat16, float8e4m3", dtype, "Convert the data"],
    ),
  ),
];

// ---- attention: options. q [1, 2, 3, 4], so B=1, H=2, Sq=3, Skv=3.

const option = (name: string, options: unknown, parts: Parts): BadInput =>
  bad(`attention: ${name}`, (w) => w.fa.attention(w.q, w.k, w.v, options), "FA_OPTION", parts);

/** One option with several values that break its rule. */
function breaks(
  name: string,
  rule: string,
  fix: string,
  values: readonly (readonly [value: unknown, got: string])[],
): BadInput[] {
  return values.map(([value, got]) => {
    const [outer, inner] = name.split(".") as [string, string?];
    const holder = inner === "seed" ? { p: 0.5 } : { p: 0.5, seed: 1 };
    const options = inner
      ? { [outer]: outer === "dropout" ? { ...holder, [inner]: value } : { [inner]: value } }
      : { [name]: value };
    return option(`${name} = ${got}`, options, [`attention(${name})`, rule, got, fix]);
  });
}

const sparsePair = (): unknown[] => {
  const pair: unknown[] = Array(2);
  pair[1] = 5;
  return pair;
};

const attentionOptions: BadInput[] = [
  ...(
    [
      ["null", null, "null"],
      ["a number", 0.125, "0.125"],
      ["true", true, "true"],
      ["an array", [], "[]"],
      ["a Map", new Map([["causal", true]]), "a Map"],
      ["a typed array", new Float32Array(3), "Float32Array(3)"],
    ] as const
  ).map(([name, options, got]) =>
    option(`options are ${name}`, options, [
      "attention(options)",
      "options must be an object",
      got,
      "Pass { scale: ... }",
    ]),
  ),
  ...(
    [
      ["casual", `Did you mean "causal"?`],
      ["Causal", `Did you mean "causal"?`],
      ["isCausal", `Did you mean "causal"?`],
      ["soft_cap", `Did you mean "softcap"?`],
      ["windowSize", `Did you mean "window"?`],
      ["alibi_slopes", `Did you mean "alibiSlopes"?`],
      ["droput", `Did you mean "dropout"?`],
      ["returnLSE", `Did you mean "returnLse"?`],
      ["blockSizes", `Did you mean "blockSize"?`],
      ["flashAttentionVersion", "Known options: scale, causal, window"],
    ] as const
  ).map(([name, fix]) =>
    option(`an unknown option ${name}`, { [name]: true }, [
      "attention(options)",
      "every option must be a known one",
      `unknown option "${name}"`,
      fix,
    ]),
  ),
  option("an unknown option whose value is undefined", { casual: undefined }, [
    "attention(options)",
    "every option must be a known one",
    `unknown option "casual"`,
    `Did you mean "causal"?`,
  ]),

  ...breaks("scale", "scale must be a finite number", "Leave it out for 1 / sqrt(D).", [
    [NaN, "NaN"],
    [Infinity, "Infinity"],
    [-Infinity, "-Infinity"],
    ["0.125", `"0.125"`],
    [null, "null"],
    [1n, "1n"],
  ]),
  ...breaks("causal", `true, false, "bottom-right" or "top-left"`, `true means "bottom-right"`, [
    ["bottom", `"bottom"`],
    [1, "1"],
    [0, "0"],
    [null, "null"],
    ["true", `"true"`],
  ]),
  ...breaks("window", "[left, right], integers from 0, or -1 for unbounded", "For the last 256 keys", [
    [[], "[]"],
    [[5], "[5]"],
    [[5, 5, 5], "[5, 5, 5]"],
    [[-2, 0], "[-2, 0]"],
    [[0, -7], "[0, -7]"],
    [[1.5, 0], "[1.5, 0]"],
    [[NaN, 0], "[NaN, 0]"],
    [[0, Infinity], "[0, Infinity]"],
    [["5", 0], `["5", 0]`],
    [sparsePair(), "[undefined, 5]"],
    [5, "5"],
    [null, "null"],
    [Int32Array.of(5, 5), "Int32Array(2)"],
    [{ left: 5, right: 5 }, "{ left, right }"],
  ]),
  ...breaks("softcap", "a finite number above 0, or 0 for off", "Typical values are 20 to 50.", [
    [-1, "-1"],
    [NaN, "NaN"],
    [Infinity, "Infinity"],
    ["30", `"30"`],
    [null, "null"],
    [true, "true"],
  ]),
  ...breaks("layout", `layout must be "bhsd" or "bshd"`, "Use one of the two.", [
    ["bsdh", `"bsdh"`],
    ["BHSD", `"BHSD"`],
    [null, "null"],
    [0, "0"],
  ]),
  ...breaks("returnLse", "returnLse must be true or false", "Leave it out for false.", [
    [1, "1"],
    ["yes", `"yes"`],
    [null, "null"],
  ]),
  ...breaks(
    "blockSize",
    "blockSize must be an integer from 1, or { q, kv }",
    "Leave it out for the planner's choice.",
    [
      [0, "0"],
      [-16, "-16"],
      [1.5, "1.5"],
      [NaN, "NaN"],
      [Infinity, "Infinity"],
      ["64", `"64"`],
      [64n, "64n"],
      [null, "null"],
      [true, "true"],
    ],
  ),
  ...breaks("blockSize", "blockSize must be an object", "Pass { q: ... }; it may hold q, kv.", [
    [[64, 64], "[64, 64]"],
  ]),
  ...breaks("blockSize.q", "blockSize.q must be an integer from 1", "Leave it out", [
    [0, "0"],
    [2.5, "2.5"],
    [null, "null"],
  ]),
  ...breaks("blockSize.kv", "blockSize.kv must be an integer from 1", "Leave it out", [
    [-1, "-1"],
    [NaN, "NaN"],
    ["64", `"64"`],
  ]),
  option("blockSize with a misspelt side", { blockSize: { q: 16, vk: 16 } }, [
    "attention(blockSize)",
    "every option must be a known one",
    `unknown option "vk"`,
    "Known options: q, kv.",
  ]),
  ...breaks("dropout", "dropout must be an object", "Pass { p: ... }; it may hold p, seed, offset.", [
    [0.1, "0.1"],
    [null, "null"],
    [[0.1, 1], "[0.1, 1]"],
    [true, "true"],
  ]),
  ...breaks("dropout.p", "dropout.p must be a number from 0 to 1", "0.1 drops a tenth of the probabilities.", [
    [-0.1, "-0.1"],
    [1.0001, "1.0001"],
    [NaN, "NaN"],
    ["0.1", `"0.1"`],
    [undefined, "undefined"],
    [null, "null"],
  ]),
  ...breaks(
    "dropout.seed",
    "an integer from 0 to 2^53 - 1, or a bigint below 2^64",
    "The same seed drops the same elements",
    [
      [undefined, "undefined"],
      [-1, "-1"],
      [1.5, "1.5"],
      [NaN, "NaN"],
      [2 ** 53, "9007199254740992"],
      [-1n, "-1n"],
      [1n << 64n, "18446744073709551616n"],
      ["42", `"42"`],
      [null, "null"],
    ],
  ),
  ...breaks("dropout.offset", "an integer from 0 to 2^32 - 1", "Leave it out for 0.", [
    [-1, "-1"],
    [2 ** 32, "4294967296"],
    [0.5, "0.5"],
    [1n, "1n"],
    [null, "null"],
  ]),
  option("dropout with a misspelt key", { dropout: { p: 0.1, sede: 1 } }, [
    "attention(dropout)",
    "every option must be a known one",
    `unknown option "sede"`,
    `Did you mean "seed"?`,
  ]),
];

const OPERANDS = ["alibiSlopes", "bias", "mask", "sinks"] as const;

const operand = (
  name: (typeof OPERANDS)[number],
  what: string,
  shape: readonly number[],
  dtype: DType,
  code: FaErrorCode,
  parts: Parts,
) =>
  bad(`attention: ${name} ${what}`, (w) => w.fa.attention(w.q, w.k, w.v, { [name]: w.of(shape, dtype) }), code, parts);

const broadcastRule = (name: string) =>
  `${name} must be [B or 1, H or 1, Sq or 1, Skv or 1] with [B, H, Sq, Skv] = [1, 2, 3, 3]`;
const toRank4 = "Reshape it to rank 4, with 1 along each dimension that repeats.";

const attentionOperands: BadInput[] = [
  ...OPERANDS.flatMap((name) => [
    ...(
      [
        ["null", null, "null"],
        ["false", false, "false"],
        ["a typed array", new Float32Array(2), "Float32Array(2)"],
      ] as const
    ).map(([what, value, got]) =>
      bad(`attention: ${name} is ${what}`, (w) => w.fa.attention(w.q, w.k, w.v, { [name]: value }), "FA_TENSOR", [
        `attention(${name})`,
        `${name} must be a tensor of this instance`,
        got,
        "Make it with fa.tensor",
      ]),
    ),
    bad(
      `attention: ${name} was disposed`,
      (w) => w.fa.attention(w.q, w.k, w.v, { [name]: w.disposed([2]) }),
      "FA_DISPOSED",
      [`attention(${name})`, `${name} must not be disposed`, "a disposed tensor [2]", "after their last use"],
    ),
    bad(
      `attention: ${name} of another instance`,
      (w) => w.fa.attention(w.q, w.k, w.v, { [name]: w.foreign }),
      "FA_TENSOR",
      [`attention(${name})`, "a tensor of this instance", "a tensor of another Attention", "Read it with data()"],
    ),
  ]),
  operand("alibiSlopes", "for another number of heads", [3], "float32", "FA_SHAPE", [
    "attention(alibiSlopes)",
    "alibiSlopes must be [H] = [2] or [B, H] = [1, 2]",
    "[3]",
    "one slope per query head",
  ]),
  operand("alibiSlopes", "for another batch", [2, 2], "float32", "FA_SHAPE", [
    "attention(alibiSlopes)",
    "[B, H] = [1, 2]",
    "[2, 2]",
    "one slope per query head",
  ]),
  operand("alibiSlopes", "of rank 0", [], "float32", "FA_SHAPE", [
    "attention(alibiSlopes)",
    "[H] = [2]",
    "[]",
    "one slope",
  ]),
  operand("alibiSlopes", "of int32", [2], "int32", "FA_DTYPE", [
    "attention(alibiSlopes)",
    "alibiSlopes must be float32 or the dtype of q, float32",
    "int32",
    `Use fa.cast(alibiSlopes, "float32").`,
  ]),
  operand("bias", "of rank 2", [3, 3], "float32", "FA_SHAPE", [
    "attention(bias)",
    broadcastRule("bias"),
    "[3, 3]",
    toRank4,
  ]),
  operand("bias", "for more keys", [1, 1, 1, 4], "float32", "FA_SHAPE", [
    "attention(bias)",
    broadcastRule("bias"),
    "[1, 1, 1, 4]",
    toRank4,
  ]),
  operand("bias", "without keys", [1, 1, 3, 0], "float32", "FA_SHAPE", [
    "attention(bias)",
    broadcastRule("bias"),
    "[1, 1, 3, 0]",
    toRank4,
  ]),
  operand("bias", "in half precision beside float32", [1, 1, 3, 3], "float16", "FA_DTYPE", [
    "attention(bias)",
    "bias must be float32 or the dtype of q, float32",
    "float16",
    `Use fa.cast(bias, "float32").`,
  ]),
  operand("bias", "of bool", [1, 1, 3, 3], "bool", "FA_DTYPE", [
    "attention(bias)",
    "bias must be float32 or the dtype of q",
    "bool",
    `Use fa.cast(bias, "float32").`,
  ]),
  operand("mask", "of rank 3", [1, 3, 3], "bool", "FA_SHAPE", [
    "attention(mask)",
    broadcastRule("mask"),
    "[1, 3, 3]",
    toRank4,
  ]),
  operand("mask", "for another number of heads", [1, 3, 3, 3], "bool", "FA_SHAPE", [
    "attention(mask)",
    broadcastRule("mask"),
    "[1, 3, 3, 3]",
    toRank4,
  ]),
  operand("mask", "of numbers to add", [1, 1, 3, 3], "float32", "FA_DTYPE", [
    "attention(mask)",
    "mask must be bool, true = may attend",
    "float32",
    "numbers to add to the scores go into bias",
  ]),
  operand("sinks", "for another number of heads", [1], "float32", "FA_SHAPE", [
    "attention(sinks)",
    "sinks must be [H] = [2]",
    "[1]",
    "one logit per query head",
  ]),
  operand("sinks", "with a batch", [1, 2], "float32", "FA_SHAPE", [
    "attention(sinks)",
    "sinks must be [H] = [2]",
    "[1, 2]",
    "one logit per query head",
  ]),
  operand("sinks", "of bfloat16 beside float32", [2], "bfloat16", "FA_DTYPE", [
    "attention(sinks)",
    "sinks must be float32 or the dtype of q, float32",
    "bfloat16",
    `Use fa.cast(sinks, "float32").`,
  ]),
];

// ---- attentionBackward, plan

/** Good inputs of attentionBackward, with some replaced; undefined leaves one out. */
const backward = (w: World, change: Readonly<Record<string, unknown>> = {}, options?: unknown): unknown => {
  const inputs = {
    q: w.q,
    k: w.k,
    v: w.v,
    out: w.of([1, 2, 3, 4]),
    lse: w.of([1, 2, 3]),
    dout: w.of([1, 2, 3, 4]),
    ...change,
  };
  return w.fa.attentionBackward(inputs, options);
};
const returned = "Pass the tensors that attention returned for the same q, k, v and options.";

const backwards: BadInput[] = [
  ...(
    [
      ["missing", undefined, "undefined"],
      ["null", null, "null"],
      ["a list", [], "[]"],
    ] as const
  ).map(([name, inputs, got]) =>
    bad(`attentionBackward: inputs are ${name}`, (w) => w.fa.attentionBackward(inputs), "FA_OPTION", [
      "attentionBackward(inputs)",
      "inputs must be an object",
      got,
      "Pass { q: ... }; it may hold q, k, v, out, lse, dout.",
    ]),
  ),
  bad("attentionBackward: q, k, v in place of inputs", (w) => w.fa.attentionBackward(w.q, w.k, w.v), "FA_OPTION", [
    "attentionBackward(inputs)",
    "every tensor must be a known one",
    `unknown tensor "shape"`,
    "Known tensors: q, k, v, out, lse, dout.",
  ]),
  bad("attentionBackward: dout misnamed", (w) => backward(w, { dOut: w.q }), "FA_OPTION", [
    "attentionBackward(inputs)",
    "every tensor must be a known one",
    `unknown tensor "dOut"`,
    `Did you mean "dout"?`,
  ]),
  ...["q", "k", "v", "out", "lse", "dout"].map((name) =>
    bad(`attentionBackward: ${name} is missing`, (w) => backward(w, { [name]: undefined }), "FA_TENSOR", [
      `attentionBackward(${name})`,
      `${name} must be a tensor of this instance`,
      "undefined",
      "Make it with fa.tensor",
    ]),
  ),
  ...(["out", "dout"] as const).map((name) =>
    bad(`attentionBackward: ${name} of another shape`, (w) => backward(w, { [name]: w.of([1, 2, 3, 5]) }), "FA_SHAPE", [
      `attentionBackward(${name})`,
      "shape must be [1, 2, 3, 4] for this q, k, v and layout",
      "[1, 2, 3, 5]",
      returned,
    ]),
  ),
  bad("attentionBackward: lse in the shape of out", (w) => backward(w, { lse: w.of([1, 2, 3, 4]) }), "FA_SHAPE", [
    "attentionBackward(lse)",
    "shape must be [1, 2, 3]",
    "[1, 2, 3, 4]",
    returned,
  ]),
  bad("attentionBackward: lse of rows by heads", (w) => backward(w, { lse: w.of([1, 3, 2]) }), "FA_SHAPE", [
    "attentionBackward(lse)",
    "shape must be [1, 2, 3]",
    "[1, 3, 2]",
    returned,
  ]),
  bad(
    "attentionBackward: out in the other layout",
    (w) => {
      const x = () => w.of([1, 3, 2, 4]);
      return w.fa.attentionBackward(
        { q: x(), k: x(), v: x(), out: w.of([1, 2, 3, 4]), lse: w.of([1, 2, 3]), dout: x() },
        bshd,
      );
    },
    "FA_SHAPE",
    ["attentionBackward(out)", "shape must be [1, 3, 2, 4]", "[1, 2, 3, 4]", returned],
  ),
  ...(["out", "dout", "lse"] as const).map((name) =>
    bad(
      `attentionBackward: ${name} of another dtype`,
      (w) => backward(w, { [name]: w.of(name === "lse" ? [1, 2, 3] : [1, 2, 3, 4], "float16") }),
      "FA_DTYPE",
      [`attentionBackward(${name})`, "dtype must be float32", "float16", returned],
    ),
  ),
  bad(
    "attentionBackward: dout of float8, whose results are bfloat16",
    (w) => {
      const x = () => w.of([1, 2, 3, 4], "float8e4m3");
      return backward(w, { q: x(), k: x(), v: x(), out: w.of([1, 2, 3, 4], "bfloat16"), dout: x() });
    },
    "FA_DTYPE",
    ["attentionBackward(dout)", "dtype must be bfloat16", "float8e4m3", returned],
  ),
  bad("attentionBackward: k of another dtype", (w) => backward(w, { k: w.of([1, 2, 3, 4], "float16") }), "FA_DTYPE", [
    "attentionBackward(k)",
    "dtype must be that of q",
    "k float16, q float32",
    "Use fa.cast",
  ]),
  bad("attentionBackward: dout was disposed", (w) => backward(w, { dout: w.disposed([1, 2, 3, 4]) }), "FA_DISPOSED", [
    "attentionBackward(dout)",
    "dout must not be disposed",
    "a disposed tensor [1, 2, 3, 4]",
    "after their last use",
  ]),
  bad("attentionBackward: out of another instance", (w) => backward(w, { out: w.foreign }), "FA_TENSOR", [
    "attentionBackward(out)",
    "a tensor of this instance",
    "a tensor of another Attention",
    "Read it with data()",
  ]),
  bad("attentionBackward: options are null", (w) => backward(w, {}, null), "FA_OPTION", [
    "attentionBackward(options)",
    "options must be an object",
    "null",
    "Pass { scale: ... }",
  ]),
  bad("attentionBackward: a misspelt option", (w) => backward(w, {}, { casual: true }), "FA_OPTION", [
    "attentionBackward(options)",
    "every option must be a known one",
    `unknown option "casual"`,
    `Did you mean "causal"?`,
  ]),
  bad("attentionBackward: scale is NaN", (w) => backward(w, {}, { scale: NaN }), "FA_OPTION", [
    "attentionBackward(scale)",
    "a finite number",
    "NaN",
    "Leave it out",
  ]),
  bad("attentionBackward: bias is null", (w) => backward(w, {}, { bias: null }), "FA_TENSOR", [
    "attentionBackward(bias)",
    "bias must be a tensor of this instance",
    "null",
    "Make it with fa.tensor",
  ]),
  bad("plan: k is missing", (w) => w.fa.plan(w.q), "FA_TENSOR", [
    "plan(k)",
    "k must be a tensor of this instance",
    "undefined",
    "Make it with fa.tensor",
  ]),
  bad("plan: k of another head dim", (w) => w.fa.plan(w.q, w.of([1, 2, 3, 5]), w.v), "FA_SHAPE", [
    "attention(k)",
    "head dim D of k must be that of q",
    "5, q has 4",
    "q.k needs equal head dims.",
  ]),
  bad("plan: options are null", (w) => w.fa.plan(w.q, w.k, w.v, null), "FA_OPTION", [
    "attention(options)",
    "options must be an object",
    "null",
    "Pass { scale: ... }",
  ]),
];

// ---- linear

/** x [2, 3] and weight [5, 3], so K=3 and N=5. */
const x = (w: World) => w.of([2, 3]);
const weight = (w: World) => w.of([5, 3]);

const linears: BadInput[] = [
  bad("linear: x is missing", (w) => w.fa.linear(undefined, weight(w)), "FA_TENSOR", [
    "linear(x)",
    "x must be a tensor of this instance",
    "undefined",
    "Make it with fa.tensor",
  ]),
  bad("linear: weight is null", (w) => w.fa.linear(x(w), null), "FA_TENSOR", [
    "linear(weight)",
    "weight must be a tensor of this instance",
    "null",
    "Make it with fa.tensor",
  ]),
  bad("linear: options are null", (w) => w.fa.linear(x(w), weight(w), null), "FA_OPTION", [
    "linear(options)",
    "options must be an object",
    "null",
    "Pass { bias: ... }",
  ]),
  bad("linear: bias in place of the options", (w) => w.fa.linear(x(w), weight(w), w.of([5])), "FA_OPTION", [
    "linear(options)",
    "every option must be a known one",
    `unknown option "shape"`,
    "Known options: bias.",
  ]),
  bad("linear: a misspelt option", (w) => w.fa.linear(x(w), weight(w), { bais: w.of([5]) }), "FA_OPTION", [
    "linear(options)",
    "every option must be a known one",
    `unknown option "bais"`,
    `Did you mean "bias"?`,
  ]),
  bad("linear: bias is null", (w) => w.fa.linear(x(w), weight(w), { bias: null }), "FA_TENSOR", [
    "linear(bias)",
    "bias must be a tensor of this instance",
    "null",
    "Make it with fa.tensor",
  ]),
  bad("linear: bias of another width", (w) => w.fa.linear(x(w), weight(w), { bias: w.of([3]) }), "FA_SHAPE", [
    "linear(bias)",
    "bias must be [N] = [5]",
    "[3]",
    "one bias per row of weight",
  ]),
  bad(
    "linear: bias of another dtype",
    (w) => w.fa.linear(x(w), weight(w), { bias: w.of([5], "float16") }),
    "FA_DTYPE",
    ["linear(bias)", "dtype must be that of x", "bias float16, x float32", "Use fa.cast"],
  ),
  bad("linear: weight transposed", (w) => w.fa.linear(x(w), w.of([3, 5])), "FA_SHAPE", [
    "linear(weight)",
    "weight must be [N, K] with K the last dimension of x",
    "weight [3, 5], x [2, 3]",
    "Transpose the weight",
  ]),
  bad("linear: weight of rank 1", (w) => w.fa.linear(x(w), w.of([3])), "FA_SHAPE", [
    "linear(weight)",
    "x must be [..., K] and weight [N, K]",
    "x [2, 3], weight [3]",
    "at least one dimension of features",
  ]),
  bad("linear: x is a scalar", (w) => w.fa.linear(w.of([]), weight(w)), "FA_SHAPE", [
    "linear(x)",
    "x must be [..., K] and weight [N, K]",
    "x [], weight [5, 3]",
    "at least one dimension of features",
  ]),
  bad("linear: weight without rows", (w) => w.fa.linear(x(w), w.of([0, 3])), "FA_SHAPE", [
    "linear(weight)",
    "N at least 1",
    "[0, 3]",
    "at least one output feature",
  ]),
  bad("linear: x of int32", (w) => w.fa.linear(w.of([2, 3], "int32"), weight(w)), "FA_DTYPE", [
    "linear(x)",
    "dtype must be one of float32, float16",
    "int32",
    "Convert the data",
  ]),
  bad("linear: weight of another dtype", (w) => w.fa.linear(x(w), w.of([5, 3], "bfloat16")), "FA_DTYPE", [
    "linear(weight)",
    "dtype must be that of x",
    "weight bfloat16, x float32",
    "Use fa.cast",
  ]),
  bad("linear: a result whose size overflows", (w) => w.fa.linear(w.of([2 ** 30, 0]), w.of([2 ** 30, 0])), "FA_SHAPE", [
    "linear(shape)",
    "the product of the sizes must be an exact number of bytes",
    "[1073741824, 1073741824]",
    "Check the sizes.",
  ]),
  bad("linear: a disposed x", (w) => w.fa.linear(w.disposed([2, 3]), weight(w)), "FA_DISPOSED", [
    "linear(x)",
    "x must not be disposed",
    "a disposed tensor [2, 3]",
    "after their last use",
  ]),
  ...(
    [
      ["missing", undefined, "null"],
      ["null", null, "null"],
      ["a number", 5, "5"],
      ["empty", [], "[]"],
      ["too wide", [3, 3], "[3, 3]"],
      ["too narrow", [2, 2], "[2, 2]"],
      ["with a zero", [5, 0], "[5, 0]"],
      ["negative", [6, -1], "[6, -1]"],
      ["in fractions", [2.5, 2.5], "[2.5, 2.5]"],
      ["of strings", ["5"], `["5"]`],
      ["NaN", [NaN], "[NaN]"],
      ["sparse", [, 5], "[undefined, 5]"], // oxlint-disable-line no-sparse-arrays
    ] as const
  ).map(([name, split, got]) =>
    bad(`linearSplit: split is ${name}`, (w) => w.fa.linearSplit(x(w), weight(w), split), "FA_OPTION", [
      "linearSplit(split)",
      "split must be positive widths that add up to N = 5",
      got,
      "one width per result",
    ]),
  ),
  ...(
    [
      ["missing", undefined, "undefined"],
      ["null", null, "null"],
    ] as const
  ).map(([name, inputs, got]) =>
    bad(`linearBackward: inputs are ${name}`, (w) => w.fa.linearBackward(inputs), "FA_OPTION", [
      "linearBackward(inputs)",
      "inputs must be an object",
      got,
      "Pass { x: ... }; it may hold x, weight, dy.",
    ]),
  ),
  bad("linearBackward: a misnamed input", (w) => w.fa.linearBackward({ x: x(w), weights: weight(w) }), "FA_OPTION", [
    "linearBackward(inputs)",
    "every tensor must be a known one",
    `unknown tensor "weights"`,
    `Did you mean "weight"?`,
  ]),
  ...(
    [
      ["missing", undefined, "undefined"],
      ["null", null, "null"],
      ["a typed array", new Float32Array(10), "Float32Array(10)"],
      ["a list with null", [null], "null"],
    ] as const
  ).map(([name, dy, got]) =>
    bad(`linearBackward: dy is ${name}`, (w) => w.fa.linearBackward({ x: x(w), weight: weight(w), dy }), "FA_TENSOR", [
      "linearBackward(dy0)",
      "dy0 must be a tensor of this instance",
      got,
      "Make it with fa.tensor",
    ]),
  ),
  bad(
    "linearBackward: no dy in the list",
    (w) => w.fa.linearBackward({ x: x(w), weight: weight(w), dy: [] }),
    "FA_SHAPE",
    [
      "linearBackward(dy)",
      "widths of dy must be positive and add up to the rows of weight, N = 5",
      "[]",
      "the gradient of each result",
    ],
  ),
  bad(
    "linearBackward: dy too narrow",
    (w) => w.fa.linearBackward({ x: x(w), weight: weight(w), dy: w.of([2, 4]) }),
    "FA_SHAPE",
    ["linearBackward(dy)", "add up to the rows of weight, N = 5", "[4]", "the gradient of each result"],
  ),
  bad(
    "linearBackward: dy without features beside a whole one",
    (w) => w.fa.linearBackward({ x: x(w), weight: weight(w), dy: [w.of([2, 5]), w.of([2, 0])] }),
    "FA_SHAPE",
    [
      "linearBackward(dy)",
      "must be positive and add up to the rows of weight, N = 5",
      "[5, 0]",
      "the gradient of each",
    ],
  ),
  bad(
    "linearBackward: dy of other rows",
    (w) => w.fa.linearBackward({ x: x(w), weight: weight(w), dy: [w.of([2, 2]), w.of([3, 3])] }),
    "FA_SHAPE",
    ["linearBackward(dy)", "shape and dtype of the result, [2, 3] float32", "[3, 3] float32", "in order"],
  ),
  bad(
    "linearBackward: dy of another dtype",
    (w) => w.fa.linearBackward({ x: x(w), weight: weight(w), dy: w.of([2, 5], "float16") }),
    "FA_DTYPE",
    ["linearBackward(dy)", "shape and dtype of the result, [2, 5] float32", "[2, 5] float16", "in order"],
  ),
];

// ---- after dispose of the instance

const closedCalls: BadInput[] = METHODS.map((method) =>
  bad(
    `${method}: the instance was disposed`,
    (w) => {
      const args: Partial<Record<typeof method, unknown[]>> = {
        tensor: [f32(4), { shape: [4] }],
        empty: [{ shape: [4] }],
        attentionBackward: [{}],
        linearSplit: [w.q, w.k, [4]],
        linearBackward: [{}],
      };
      return w.closed[method](...(args[method] ?? [w.q, w.k, w.v].slice(0, method === "linear" ? 2 : 3)));
    },
    "FA_DISPOSED",
    [method, "the instance must not be disposed", "a disposed Attention", "Make another with createAttention."],
  ),
);

const closedTensors: BadInput[] = [
  bad("data: the tensor's instance was disposed", (w) => w.closed.tensorOfIt.data(), "FA_DISPOSED", [
    "data(this)",
    "this must not be disposed",
    "a disposed tensor [1, 2, 3, 4]",
    "after their last use",
  ]),
  bad("reshape: the tensor's instance was disposed", (w) => w.closed.tensorOfIt.reshape([24]), "FA_DISPOSED", [
    "reshape(this)",
    "this must not be disposed",
    "a disposed tensor [1, 2, 3, 4]",
    "after their last use",
  ]),
];

// ---- safetensors

/** A file with the header as text; its length may be a lie. */
function file(header: string, dataBytes = 0, headerBytes: bigint = BigInt(header.length)): Uint8Array {
  const bytes = new Uint8Array(8 + header.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, headerBytes, true);
  bytes.set(new TextEncoder().encode(header), 8);
  return bytes;
}

const entry = (fields: object): string =>
  JSON.stringify({ w: { dtype: "F32", shape: [2], data_offsets: [0, 8], ...fields } });

const damaged = (name: string, bytes: () => unknown, got: string): BadInput =>
  bad(`readSafetensors: ${name}`, (w) => w.readSafetensors(bytes()), "FA_TENSOR", [
    "readSafetensors(file)",
    "the file must be whole",
    got,
    "Fetch or write it again.",
  ]);

const files: BadInput[] = [
  damaged("an empty file", () => new Uint8Array(0), "0 bytes"),
  damaged("cut short in the header's length", () => file("{}").slice(0, 7), "7 bytes"),
  damaged("a header of no bytes", () => new Uint8Array(8), "a header that is no JSON"),
  damaged("cut short in the header", () => file(entry({}), 8).slice(0, 20), "a header of 54 bytes in a file of 20"),
  damaged("cut short in the data", () => file(entry({}), 7), "w at bytes 0 to 8"),
  damaged("a huge header length", () => file("{}", 0, (1n << 63n) - 1n), "a header of 9223372036854776000 bytes"),
  damaged("a header length beyond the file", () => file("{}", 0, 3n), "a header of 3 bytes in a file of 10"),
  damaged("a header that is no JSON", () => file("{not json"), "a header that is no JSON"),
  damaged("a header that is null", () => file("null"), "a header that is no object"),
  damaged("a header that is a list", () => file("[]"), "a header that is no object"),
  damaged("offsets beyond the end", () => file(entry({ data_offsets: [8, 16] }), 8), "w at bytes 8 to 16"),
  damaged(
    "offsets that disagree with the shape",
    () => file(entry({ data_offsets: [0, 4] }), 8),
    "w at bytes 0 to 4, 8 bytes",
  ),
  damaged("offsets that run backwards", () => file(entry({ data_offsets: [8, 0] }), 8), "w at bytes 8 to 0"),
  damaged("negative offsets", () => file(entry({ data_offsets: [-8, 0] }), 8), "no sizes for w"),
  damaged("three offsets", () => file(entry({ data_offsets: [0, 4, 8] }), 8), "no sizes for w"),
  damaged("no shape", () => file(entry({ shape: undefined }), 8), "no sizes for w"),
  damaged("a shape in fractions", () => file(entry({ shape: [0.5, 4] }), 8), "no sizes for w"),
  damaged("a shape whose product overflows", () => file(entry({ shape: [2 ** 50, 2 ** 50] }), 8), "w at bytes 0 to 8"),
  ...(
    [
      ["unknown", entry({ dtype: "F64" }), `"F64"`],
      ["missing", entry({ dtype: undefined }), "undefined"],
      ["named like a method of every object", entry({ dtype: "toString" }), `"toString"`],
      ["missing with the whole entry", `{"w":null}`, "undefined"],
    ] as const
  ).map(([name, header, got]) =>
    bad(`readSafetensors: a dtype that is ${name}`, (w) => w.readSafetensors(file(header, 8)), "FA_DTYPE", [
      "readSafetensors(w)",
      "dtype must be one of F32, F16, BF16, F8_E4M3, I32, BOOL",
      got,
      "Convert the file.",
    ]),
  ),
  ...(
    [
      ["an ArrayBuffer", new ArrayBuffer(16), "an ArrayBuffer"],
      ["a path", "model.safetensors", `"model.safetensors"`],
      ["undefined", undefined, "undefined"],
    ] as const
  ).map(([name, value, got]) =>
    bad(`readSafetensors: the file is ${name}`, (w) => w.readSafetensors(value), "FA_TENSOR", [
      "readSafetensors(file)",
      "file must be a Uint8Array",
      got,
      "Pass new Uint8Array(arrayBuffer)",
    ]),
  ),
  bad(
    "writeSafetensors: bytes that are not the shape's",
    (w) => w.writeSafetensors(new Map([["w", { dtype: "float32", shape: [3], bytes: new Uint8Array(8) }]])),
    "FA_SHAPE",
    ["writeSafetensors(w)", "bytes must hold [3] of float32, 12 bytes", "8", "Check the shape and dtype."],
  ),
];

export const BAD_INPUTS: readonly BadInput[] = [
  ...creating,
  ...making,
  ...casting,
  ...attentionTensors,
  ...attentionOptions,
  ...attentionOperands,
  ...backwards,
  ...linears,
  ...closedCalls,
  ...closedTensors,
  ...files,
];
