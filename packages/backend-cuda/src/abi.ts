/** native/launch.h as JavaScript sees it: the addon, and the places of arguments. A test compares the two. */

export const STATUS = { ok: 0, outOfMemory: 1, dead: 2, failed: 3 } as const;

export const OP = { cast: 0, forward: 1, backward: 2, matmul: 3, columnSums: 4, gather: 5 } as const;
export type OpName = keyof typeof OP;

/** Families of attention kernels. */
export const FAMILY = { generic: 0, hopper: 1, decode: 2, hopperGeneral: 3, hopperShort: 4 } as const;
export type FamilyName = keyof typeof FAMILY;

/** Numbers of the float dtypes. */
export const DTYPE = { float32: 0, float16: 1, bfloat16: 2, float8e4m3: 3 } as const;

const ATTENTION = [
  "q",
  "k",
  "v",
  "out",
  "lse",
  "bias",
  "mask",
  "alibi",
  "sinks",
  "dout",
  "dq",
  "dk",
  "dvOut",
  "dbias",
  "dsinks",
  "delta",
  "partial",
  "partialLse",
  "family",
  "dtype",
  "b",
  "h",
  "hkv",
  "sq",
  "skv",
  "d",
  "dv",
  "bshd",
  "tileQ",
  "tileKv",
  "group",
  "splits",
  "scale",
  "softcap",
  "bandLo",
  "bandHi",
  "biasDtype",
  "biasBatch",
  "biasHead",
  "biasRow",
  "biasColumn",
  "maskBatch",
  "maskHead",
  "maskRow",
  "maskColumn",
  "alibiDtype",
  "alibiPerBatch",
  "sinksDtype",
  "dropout",
  "dropoutThreshold",
  "dropoutScale",
  "dropoutSeedLow",
  "dropoutSeedHigh",
  "dropoutOffset",
] as const;

const CAST = ["x", "y", "from", "to", "elements"] as const;
const MATMUL = [
  "a",
  "aRow",
  "aColumn",
  "b",
  "bRow",
  "bColumn",
  "c",
  "cRow",
  "cColumn",
  "bias",
  "m",
  "n",
  "k",
  "dtype",
] as const;
const COLUMN_SUMS = ["x", "out", "m", "n", "dtype"] as const;
const GATHER = ["from", "fromPitch", "to", "toPitch", "width", "rows"] as const;

interface Slots {
  readonly cast: typeof CAST;
  readonly forward: typeof ATTENTION;
  readonly backward: typeof ATTENTION;
  readonly matmul: typeof MATMUL;
  readonly columnSums: typeof COLUMN_SUMS;
  readonly gather: typeof GATHER;
}

/** Names of the arguments of each op, in the order of their places. */
export const SLOTS: Slots = {
  cast: CAST,
  forward: ATTENTION,
  backward: ATTENTION,
  matmul: MATMUL,
  columnSums: COLUMN_SUMS,
  gather: GATHER,
};

export type SlotName<O extends OpName = OpName> = Slots[O][number];

/** The most arguments that an op has. */
export const MOST_SLOTS: number = ATTENTION.length;

/** What there is on this machine. Versions as CUDA counts them, 1000 major + 10 minor; driver 0: there is none. */
export interface Probed {
  readonly driver: number;
  readonly runtime: number;
  readonly devices: number;
  readonly major: number;
  readonly minor: number;
  readonly processors: number;
  readonly sharedBytes: number;
  /** The addon has kernels for sm_90a, and the device runs them. */
  readonly sm90a: boolean;
  readonly memoryBytes: number;
  readonly name: string;
  readonly error: string;
}

/** Facts of a compiled attention kernel. */
export interface CompiledKernel {
  readonly op: number;
  readonly family: number;
  readonly dtype: number;
  readonly headDim: number;
  readonly tileQ: number;
  readonly tileKV: number;
  readonly threads: number;
  readonly sharedBytes: number;
}

type Done = (status: number, error: string, value: number) => void;

/** One device and one stream. Numbers that are returned are statuses unless said otherwise. */
export interface Instance {
  /** The device pointer, or minus a status. */
  allocate(bytes: number): number;
  free(pointer: number): number;
  fill(pointer: number, byte: number, bytes: number): number;
  upload(pointer: number, bytes: Uint8Array): number;
  /** Copies to `target` once all work given before is done, then calls `done`. Work given later does not disturb it. */
  read(pointer: number, target: Uint8Array, done: Done): number;
  roof(done: Done): number;
  /** Enqueues an op whose arguments are in the slots. */
  run(op: number): number;
  /** The last failure in words. */
  error(): string;
  /** The cudaStream_t. */
  readonly stream: number;
  close(): void;
}

export interface Addon {
  probe(device: number): Probed;
  kernels(): CompiledKernel[];
  readonly Instance: new (device: number, slots: Float64Array) => Instance;
}
