import type { Backend, BackendProvider, Bindings, Capabilities, DeviceBuffer, MemoryUse, Roof } from "../backend.ts";
import { decode, encode, FLOAT_DTYPES, DTYPES, type DType } from "../dtype.ts";
import { FaError, refuse, show } from "../errors.ts";
import type { KernelRow, Plan } from "../plan.ts";
import { checkOptions, MAX_HEAD_DIM, type AttentionProblem, type LinearProblem } from "../problem.ts";
import { SCORE_STEPS, step } from "../score-program.ts";
import { VERSION } from "../version.ts";
import type { AttentionData } from "./data.ts";
import { naiveLinear, naiveLinearBackward } from "./linear.ts";
import { naiveAttention, naiveAttentionBackward } from "./naive.ts";
import { tiledAttention, tiledAttentionBackward } from "./tiled.ts";

export interface ReferenceOptions {
  /** `"tiled"` (default): the kernels' algorithm. `"naive"`: the definition. */
  readonly algorithm?: "tiled" | "naive" | undefined;
}

/** The algorithms of the reference, so that a copy of one with a fault can be put in its place. */
export interface Algorithms {
  readonly attention: typeof tiledAttention;
  readonly attentionBackward: typeof tiledAttentionBackward;
}

const ALGORITHMS: Readonly<Record<"tiled" | "naive", Algorithms>> = {
  tiled: { attention: tiledAttention, attentionBackward: tiledAttentionBackward },
  naive: {
    attention: (problem, data) => naiveAttention(problem, data),
    attentionBackward: (problem, data) => naiveAttentionBackward(problem, data, data.dout),
  },
};

/**
 * The back end that works everywhere: pure TypeScript, float64 inside, every option, dtype and head dim. Slow; the one
 * that others are checked against.
 * @throws FaError FA_OPTION
 */
export function reference(options: ReferenceOptions = {}): BackendProvider {
  checkOptions("reference", options, ["algorithm"]);
  const { algorithm = "tiled" } = options;
  if (!Object.hasOwn(ALGORITHMS, algorithm)) {
    refuse("FA_OPTION", {
      where: "reference(algorithm)",
      rule: `algorithm must be "tiled" or "naive"`,
      got: show(algorithm),
      fix: "Leave it out for tiled.",
    });
  }
  return referenceWith(ALGORITHMS[algorithm], algorithm);
}

/** The reference back end around given algorithms. */
export function referenceWith(algorithms: Algorithms, id: string): BackendProvider {
  const device = "pure TypeScript, float64";
  return {
    name: "reference",
    probe: async () => ({ ok: true, device, identity: `${VERSION}, ${id}` }),
    open: async () => new ReferenceBackend(algorithms, id, device),
  };
}

/** Rows of the reference's kernel table: no limits but the contract's. */
function kernelTable(id: string): KernelRow[] {
  const row = { dtypes: DTYPES, needs: [], tile: { q: 64, kv: 64 }, maxTile: { q: Infinity, kv: Infinity } };
  const attention = { ...row, headDim: { min: 1, max: MAX_HEAD_DIM }, steps: SCORE_STEPS };
  const none = (): number => 0;
  return [
    { ...attention, id: `${id}-forward`, op: "attention", workspaceBytes: none },
    { ...attention, id: `${id}-backward`, op: "attentionBackward", workspaceBytes: none },
    { ...row, id: "linear", op: "linear", workspaceBytes: none },
    { ...row, id: "linear-backward", op: "linearBackward", workspaceBytes: none },
    { ...row, id: "cast", op: "cast", dtypes: FLOAT_DTYPES, workspaceBytes: none },
  ];
}

interface HostBuffer extends DeviceBuffer {
  contents: Uint8Array<ArrayBuffer> | undefined;
}

class ReferenceBackend implements Backend {
  readonly name = "reference";
  readonly device: string;
  readonly kernels: readonly KernelRow[];
  readonly capabilities: Capabilities = {
    dtypes: DTYPES,
    maxHeadDim: MAX_HEAD_DIM,
    sharedBytes: Infinity,
    maxBufferBytes: Number.MAX_SAFE_INTEGER,
    features: [],
  };
  readonly #algorithms: Algorithms;
  readonly #live = new Set<HostBuffer>();
  #currentBytes = 0;
  #peakBytes = 0;

  constructor(algorithms: Algorithms, id: string, device: string) {
    this.#algorithms = algorithms;
    this.kernels = kernelTable(id);
    this.device = device;
  }

  allocate(bytes: number, contents?: Uint8Array | "zero"): HostBuffer {
    let copy: Uint8Array<ArrayBuffer>;
    try {
      copy = contents instanceof Uint8Array ? Uint8Array.from(contents) : new Uint8Array(bytes);
    } catch (cause) {
      throw new FaError(
        "FA_OUT_OF_MEMORY",
        `reference: a tensor must fit in host memory; got ${bytes} bytes. Dispose tensors or use smaller ones.`,
        { cause },
      );
    }
    const buffer: HostBuffer = { bytes, contents: copy };
    this.#live.add(buffer);
    this.#currentBytes += bytes;
    this.#peakBytes = Math.max(this.#peakBytes, this.#currentBytes);
    return buffer;
  }

  async read(buffer: HostBuffer): Promise<Uint8Array<ArrayBuffer>> {
    return buffer.contents!.slice();
  }

  free(buffer: HostBuffer): void {
    if (!this.#live.delete(buffer)) return;
    this.#currentBytes -= buffer.bytes;
    buffer.contents = undefined;
  }

  run({ problem, tile }: Plan, bindings: Bindings): void {
    const buffers = bindings as Readonly<Record<string, HostBuffer>>;
    const read = (name: string, dtype: DType): Float64Array => decode(dtype, buffers[name].contents!);
    const write = (name: string, dtype: DType, values: ArrayLike<number> | undefined): void => {
      if (values && buffers[name]) buffers[name].contents!.set(encode(dtype, values));
    };
    switch (problem.op) {
      case "attention": {
        const { out, lse } = this.#algorithms.attention(problem, attentionData(problem, buffers, read), tile);
        write("out", problem.resultDType, out);
        write("lse", "float32", lse);
        return;
      }
      case "attentionBackward": {
        const result = problem.resultDType;
        const data = {
          ...attentionData(problem, buffers, read),
          out: read("out", result),
          lse: read("lse", "float32"),
          dout: read("dout", result),
        };
        const { dq, dk, dv, dbias, dsinks } = this.#algorithms.attentionBackward(problem, data, tile);
        write("dq", result, dq);
        write("dk", result, dk);
        write("dv", result, dv);
        write("dbias", step(problem.program, "bias")?.dtype ?? "float32", dbias);
        write("dsinks", step(problem.program, "sinks")?.dtype ?? "float32", dsinks);
        return;
      }
      case "linear": {
        const data = linearData(problem, read);
        const bias = problem.bias ? read("bias", problem.dtype) : undefined;
        naiveLinear(problem, { ...data, bias }).forEach((y, n) => write(`y${n}`, problem.dtype, y));
        return;
      }
      case "linearBackward": {
        const dy = problem.split.map((_, n) => read(`dy${n}`, problem.dtype));
        const gradients = naiveLinearBackward(problem, { ...linearData(problem, read), dy });
        for (const [name, values] of Object.entries(gradients)) write(name, problem.dtype, values);
        return;
      }
      case "cast":
        write("y", problem.resultDType, read("x", problem.dtype));
    }
  }

  async sync(): Promise<void> {}

  memory(): MemoryUse {
    return { currentBytes: this.#currentBytes, peakBytes: this.#peakBytes };
  }

  /** Scalar float64 multiply and add on four independent sums, which is as much as this back end's loops can reach. */
  async roof(): Promise<Roof> {
    const STEPS = 1 << 20;
    let gflops = 0;
    const deadline = performance.now() + 100;
    while (performance.now() < deadline) {
      const start = performance.now();
      multiplyAdd(STEPS);
      gflops = Math.max(gflops, (8 * STEPS) / (performance.now() - start) / 1e6);
    }
    return { gflops, what: "scalar float64 multiply and add in JavaScript, one thread" };
  }

  async dispose(): Promise<void> {
    for (const buffer of this.#live) this.free(buffer);
  }
}

function multiplyAdd(steps: number): number {
  let [a, b, c, d] = [1, 2, 3, 4];
  for (let n = 0; n < steps; n++) {
    a = a * 0.999 + 1;
    b = b * 0.998 + 1;
    c = c * 0.997 + 1;
    d = d * 0.996 + 1;
  }
  return a + b + c + d;
}

function attentionData(
  { dtype, program }: AttentionProblem,
  buffers: Readonly<Record<string, HostBuffer>>,
  read: (name: string, dtype: DType) => Float64Array,
): AttentionData {
  const bias = step(program, "bias");
  const alibi = step(program, "alibi");
  const sinks = step(program, "sinks");
  return {
    q: read("q", dtype),
    k: read("k", dtype),
    v: read("v", dtype),
    bias: bias && read("bias", bias.dtype),
    mask: step(program, "visibility")?.mask && buffers.mask.contents,
    alibiSlopes: alibi && read("alibiSlopes", alibi.dtype),
    sinks: sinks && read("sinks", sinks.dtype),
  };
}

function linearData({ dtype }: LinearProblem, read: (name: string, dtype: DType) => Float64Array) {
  return { x: read("x", dtype), weight: read("weight", dtype) };
}
