import type { Backend, BackendProvider, Capabilities, MemoryUse, Roof } from "./backend.ts";
import { bytesPerElement, checkDType, isFloat, type DType, type FloatDType, type TensorData } from "./dtype.ts";
import { FaError, refuse, show } from "./errors.ts";
import { describePlan, plan, refusalError, type KernelRow, type Plan } from "./plan.ts";
import {
  ATTENTION_OPTIONS,
  attentionBackwardProblem,
  attentionProblem,
  checkOptions,
  linearProblem,
  lseShape,
  outShape,
  OPTION_TENSORS,
  sameShape,
  type AttentionOptionsOf,
  type AttentionProblem,
  type Problem,
} from "./problem.ts";
import { open, type CandidateReport, type Selection } from "./select.ts";
import { checkData, checkShape, elementsOf, Storage, storageOf, Tensor, type TensorOwner } from "./tensor.ts";

export type AttentionOptions = AttentionOptionsOf<Tensor>;

export interface AttentionResult {
  /** Shape of q with Dv in place of D; dtype of q (bfloat16 for float8e4m3). */
  readonly out: Tensor;
  /** [B, H, Sq], float32: ln of the sum of exp(scores). Only with `returnLse`. */
  readonly lse?: Tensor | undefined;
}

export interface AttentionGradients {
  readonly dq: Tensor;
  readonly dk: Tensor;
  readonly dv: Tensor;
  /** Given when bias was: its shape and dtype. */
  readonly dbias?: Tensor | undefined;
  /** Given when sinks were: their shape and dtype. */
  readonly dsinks?: Tensor | undefined;
}

export interface LinearGradients {
  readonly dx: Tensor;
  readonly dweight: Tensor;
  readonly dbias: Tensor;
}

/** What `createAttention` takes. */
export interface CreateOptions extends Selection {
  /** Providers in order of preference: `[cuda(), webgpu(), wasm()]`. */
  readonly backends: readonly BackendProvider[];
}

/**
 * Opens the best of the back ends given.
 * @throws FaError FA_UNAVAILABLE with every candidate's reason if none works, FA_OPTION for a malformed list
 * @example
 * const fa = await createAttention({ backends: [webgpu(), wasm(), reference()] });
 */
export async function createAttention(options: CreateOptions): Promise<Attention> {
  checkOptions("createAttention", options, ["backends", "select", "problem", "store"]);
  const { backend, report } = await open(options.backends, options);
  return new Attention(backend, report);
}

/**
 * One open back end with the tensors made on it. Work runs in call order; calls return when it is enqueued, `data()` and
 * `sync()` wait for it.
 */
export class Attention {
  /** The back end that was taken. */
  readonly backend: {
    readonly name: string;
    /** In the words of the back end, which may come to know more about it while it works. */
    readonly device: string;
    readonly capabilities: Capabilities;
    readonly kernels: readonly KernelRow[];
  };
  /** One entry a candidate, in order: whether it was taken and why. */
  readonly report: readonly CandidateReport[];
  readonly #backend: Backend;
  readonly #owner: TensorOwner & { disposed: boolean } = { disposed: false };
  readonly #calls = new Map<string, Call>();
  #last: LastCall | undefined;

  /** @internal Use `createAttention`. */
  constructor(backend: Backend, report: readonly CandidateReport[]) {
    const { name, capabilities, kernels } = backend;
    this.#backend = backend;
    this.backend = Object.freeze({
      name,
      get device() {
        return backend.device;
      },
      capabilities,
      kernels,
    });
    this.report = Object.freeze([...report]);
  }

  get disposed(): boolean {
    return this.#owner.disposed;
  }

  /**
   * A tensor with a copy of `data`, taken before the call returns. `Float32Array` is float32, `Float16Array` float16,
   * `Int32Array` int32, `Uint8Array` bool unless `dtype: "float8e4m3"`; a `Uint16Array` holds raw bits and needs
   * `dtype: "float16"` or `"bfloat16"`.
   * @throws FaError FA_SHAPE, FA_DTYPE, FA_TENSOR, FA_OPTION, FA_OUT_OF_MEMORY, FA_DISPOSED
   */
  tensor(data: TensorData, options: { readonly shape: readonly number[]; readonly dtype?: DType | undefined }): Tensor {
    this.#checkOpen("tensor");
    checkOptions("tensor", options, ["shape", "dtype"]);
    const { shape } = options;
    checkShape("tensor", shape);
    const { dtype, bytes } = checkData("tensor", data, shape, options.dtype);
    return this.#own(this.#backend.allocate(bytes.byteLength, bytes), shape, dtype);
  }

  /**
   * A tensor of zeros. `dtype` is float32 unless given.
   * @throws FaError FA_SHAPE, FA_DTYPE, FA_OPTION, FA_OUT_OF_MEMORY, FA_DISPOSED
   */
  empty(options: { readonly shape: readonly number[]; readonly dtype?: DType | undefined }): Tensor {
    this.#checkOpen("empty");
    checkOptions("empty", options, ["shape", "dtype"]);
    const { shape, dtype = "float32" } = options;
    checkShape("empty", shape);
    checkDType("empty(dtype)", dtype);
    return this.#own(this.#backend.allocate(elementsOf(shape) * bytesPerElement(dtype), "zero"), shape, dtype);
  }

  /**
   * A tensor on memory of yours, in the platform's own terms: a `GPUBuffer` of the device that `webgpu({ device })` was
   * given. Nothing is copied; the memory stays yours, and has to live as long as the tensor.
   * @throws FaError FA_UNSUPPORTED if the back end has no such memory, FA_TENSOR, FA_SHAPE, FA_DTYPE, FA_OPTION, FA_DISPOSED
   */
  wrap(native: unknown, options: { readonly shape: readonly number[]; readonly dtype?: DType | undefined }): Tensor {
    this.#checkOpen("wrap");
    checkOptions("wrap", options, ["shape", "dtype"]);
    const { shape, dtype = "float32" } = options;
    checkShape("wrap", shape);
    checkDType("wrap(dtype)", dtype);
    if (!this.#backend.wrap) this.#lacks("wrap", "memory that can be shared");
    return this.#own(this.#backend.wrap(native, elementsOf(shape) * bytesPerElement(dtype)), shape, dtype);
  }

  /**
   * A tensor's memory in the platform's own terms, such as its `GPUBuffer`: not a copy. It holds the elements from its start, and
   * is valid until the tensor is disposed.
   * @throws FaError FA_UNSUPPORTED if the back end has no such memory, FA_TENSOR, FA_DISPOSED
   */
  native(tensor: Tensor): unknown {
    const { tensor: buffer } = this.#bind("native", { tensor });
    if (!this.#backend.native) this.#lacks("native", "memory that can be shared");
    return this.#backend.native(buffer);
  }

  /**
   * The tensor's numbers in another float dtype, rounded once to nearest even; float8e4m3 saturates at +-448.
   * @throws FaError FA_DTYPE, FA_TENSOR, FA_DISPOSED, FA_OUT_OF_MEMORY, FA_UNSUPPORTED
   */
  async cast(x: Tensor, dtype: FloatDType): Promise<Tensor> {
    const bindings = this.#bind("cast", { x });
    checkDType("cast(dtype)", dtype);
    for (const [name, type] of [
      ["x", x.dtype],
      ["dtype", dtype],
    ] as const) {
      if (!isFloat(type)) {
        refuse("FA_DTYPE", {
          where: `cast(${name})`,
          rule: "both dtypes must be float dtypes",
          got: type,
          fix: "Convert int32 and bool data before making the tensor.",
        });
      }
    }
    const from = x.dtype as FloatDType;
    const problem = { op: "cast", dtype: from, resultDType: dtype, elements: x.size } as const;
    const { y } = await this.#run("cast", this.#call("cast", problem, { y: { shape: x.shape, dtype } }), bindings);
    return y;
  }

  /**
   * Exact attention: softmax(scale q k^T + ...) v, by tiles, never storing the Sq x Skv scores.
   * @param q [B, H, Sq, D] (or [B, Sq, H, D] with `layout: "bshd"`, or [B, Sq, D] with one head)
   * @param k [B, Hkv, Skv, D]; query head h reads key head floor(h / (H / Hkv))
   * @param v [B, Hkv, Skv, Dv]
   * @throws FaError FA_SHAPE, FA_DTYPE, FA_OPTION, FA_TENSOR, FA_DISPOSED, FA_UNSUPPORTED, FA_OUT_OF_MEMORY
   * @see Dao et al., "FlashAttention-2", 2023, algorithm 1
   */
  attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: AttentionOptions & { readonly returnLse: true },
  ): Promise<AttentionResult & { readonly lse: Tensor }>;
  attention(q: Tensor, k: Tensor, v: Tensor, options?: AttentionOptions): Promise<AttentionResult>;
  async attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Promise<AttentionResult> {
    const bindings = this.#bind("attention", { q, k, v }, options);
    const call = this.#attentionCall(q, k, v, options);
    return this.#run("attention", call, bindings) as unknown as AttentionResult | Promise<AttentionResult>;
  }

  /**
   * Gradients of `attention` for the gradient `dout` of its out, with the same options. Recomputes the probabilities from
   * q, k and lse, tile by tile.
   * @throws FaError as `attention`
   * @see Dao et al., "FlashAttention-2", 2023, algorithm 2
   */
  async attentionBackward(
    inputs: Readonly<Record<"q" | "k" | "v" | "out" | "lse" | "dout", Tensor>>,
    options: AttentionOptions = {},
  ): Promise<AttentionGradients> {
    const where = "attentionBackward";
    checkOptions(where, inputs, ["q", "k", "v", "out", "lse", "dout"], "inputs");
    const { q, k, v, out, lse, dout } = inputs;
    const bindings = this.#bind(where, { q, k, v, out, lse, dout }, options);
    const problem = attentionBackwardProblem({ q, k, v, out, lse, dout }, options);
    const { resultDType: dtype } = problem;
    const { bias, sinks } = options;
    const call = this.#call(where, problem, {
      dq: { shape: q.shape, dtype },
      dk: { shape: k.shape, dtype },
      dv: { shape: v.shape, dtype },
      ...(bias && { dbias: bias }),
      ...(sinks && { dsinks: sinks }),
    });
    return (await this.#run(where, call, bindings)) as unknown as AttentionGradients;
  }

  /**
   * y = x W^T + bias, the projection around attention.
   * @param x [..., K]
   * @param weight [N, K]
   * @returns [..., N]
   * @throws FaError as `attention`
   */
  async linear(x: Tensor, weight: Tensor, options: { readonly bias?: Tensor | undefined } = {}): Promise<Tensor> {
    const [y] = await this.#linear("linear", x, weight, undefined, options);
    return y;
  }

  /**
   * One projection whose N features leave as several results, as q, k and v do from a fused weight.
   * @param split widths of the results, adding up to N
   * @returns [..., split[n]] each
   * @throws FaError as `attention`
   */
  async linearSplit(
    x: Tensor,
    weight: Tensor,
    split: readonly number[],
    options: { readonly bias?: Tensor | undefined } = {},
  ): Promise<Tensor[]> {
    return this.#linear("linearSplit", x, weight, split ?? null, options);
  }

  async #linear(
    where: string,
    x: Tensor,
    weight: Tensor,
    split: readonly number[] | null | undefined,
    options: { readonly bias?: Tensor | undefined },
  ): Promise<Tensor[]> {
    checkOptions(where, options, ["bias"]);
    const { bias } = options;
    const bindings = this.#bind(where, { x, weight, ...(bias !== undefined && { bias }) });
    const problem = linearProblem(where, { x, weight, bias }, split);
    const features = x.shape.slice(0, -1);
    const results = problem.split.map(
      (width, n) => [`y${n}`, { shape: [...features, width], dtype: problem.dtype }] as const,
    );
    return Object.values(await this.#run(where, this.#call(where, problem, Object.fromEntries(results)), bindings));
  }

  /**
   * Gradients of `linear` (one `dy`) or `linearSplit` (one for each result).
   * @param inputs x and weight as given, and dy with the shape of each result
   * @returns dx, dweight, and dbias (the column sums of dy, whether or not a bias was added)
   * @throws FaError as `attention`
   */
  async linearBackward(inputs: {
    readonly x: Tensor;
    readonly weight: Tensor;
    readonly dy: Tensor | readonly Tensor[];
  }): Promise<LinearGradients> {
    const where = "linearBackward";
    checkOptions(where, inputs, ["x", "weight", "dy"], "inputs");
    const { x, weight } = inputs;
    const dys = Array.isArray(inputs.dy) ? (inputs.dy as Tensor[]) : [inputs.dy as Tensor];
    const named = Object.fromEntries(dys.map((dy, n) => [`dy${n}`, dy]));
    const bindings = this.#bind(where, { x, weight, ...named });
    const { N } = linearProblem(where, { x, weight });
    const fix = "Pass the gradient of each result of linear, in order.";
    const widths = dys.map((dy) => dy.shape.at(-1) ?? 0);
    for (const [n, dy] of dys.entries()) {
      const expected = [...x.shape.slice(0, -1), widths[n]];
      if (!sameShape(dy.shape, expected) || dy.dtype !== x.dtype) {
        refuse(dy.dtype === x.dtype ? "FA_SHAPE" : "FA_DTYPE", {
          where: `${where}(dy)`,
          rule: `dy must have the shape and dtype of the result, ${show(expected)} ${x.dtype}`,
          got: `${show(dy.shape)} ${dy.dtype}`,
          fix,
        });
      }
    }
    if (widths.reduce((sum, width) => sum + width, 0) !== N || widths.includes(0)) {
      refuse("FA_SHAPE", {
        where: `${where}(dy)`,
        rule: `the widths of dy must be positive and add up to the rows of weight, N = ${N}`,
        got: show(widths),
        fix,
      });
    }
    const problem = linearProblem(where, { x, weight }, widths, where);
    const call = this.#call(where, problem, {
      dx: x,
      dweight: weight,
      dbias: { shape: [problem.N], dtype: problem.dtype },
    });
    return (await this.#run(where, call, bindings)) as unknown as LinearGradients;
  }

  /**
   * `attention`, recorded into a list of commands of yours (for WebGPU a `GPUCommandEncoder`, or a `GPUComputePassEncoder`, which
   * spares the device some microseconds a call) instead of run: it runs when and where you submit it. Kernels that were not compiled yet are compiled in place; awaiting one `attention` of the same shapes
   * before avoids the wait. Dispose nothing that takes part before it is submitted.
   * @throws FaError as `attention`, and FA_UNSUPPORTED if the back end records no commands
   */
  encode(encoder: unknown, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): AttentionResult {
    const bindings = this.#bind("encode", { q, k, v }, options);
    const problem = attentionProblem({ q, k, v }, options);
    const backend = this.#backend;
    if (!backend.encode) this.#lacks("encode", "lists of commands to record into");
    const { planned, results } = this.#call("encode", problem, attentionResults(problem, options));
    const tensors = this.#allocate(results, bindings);
    try {
      backend.encode(encoder, planned, bindings);
      return tensors as unknown as AttentionResult;
    } catch (error) {
      disposeAll(tensors);
      throw error;
    }
  }

  /**
   * The plan that `attention` would run, without running it: `describePlan(fa.plan(q, k, v, options))` prints it.
   * @throws FaError as `attention`
   */
  plan(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Plan<AttentionProblem> {
    this.#bind("plan", { q, k, v }, options);
    return this.#plan("plan", attentionProblem({ q, k, v }, options));
  }

  /** Resolves when all work given so far is done. */
  async sync(): Promise<void> {
    this.#checkOpen("sync");
    await this.#backend.sync();
  }

  /** Bytes that tensors and workspace take on the device now, and the most they have taken. */
  memory(): MemoryUse {
    this.#checkOpen("memory");
    return this.#backend.memory();
  }

  /** Measures what this device's arithmetic can do at best. */
  async roof(): Promise<Roof> {
    this.#checkOpen("roof");
    return this.#backend.roof();
  }

  /** Closes the back end and frees every tensor made on it. Calling it again does nothing. */
  async dispose(): Promise<void> {
    if (this.#owner.disposed) return;
    this.#owner.disposed = true;
    await this.#backend.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  #checkOpen(where: string): void {
    if (this.#owner.disposed) {
      refuse("FA_DISPOSED", {
        where,
        rule: "the instance must not be disposed",
        got: "a disposed Attention",
        fix: "Make another with createAttention.",
      });
    }
  }

  #own(buffer: Storage["buffer"], shape: readonly number[], dtype: DType): Tensor {
    return new Tensor(this.#owner, new Storage(this.#backend, buffer), shape, dtype);
  }

  /** The buffers of live tensors of this instance, by name; the tensors that options carry among them. */
  #bind(where: string, tensors: Readonly<Record<string, unknown>>, options: AttentionOptions = {}): Buffers {
    this.#checkOpen(where);
    const bindings: Buffers = {};
    for (const name in tensors) bindings[name] = this.#bufferOf(where, name, tensors[name]);
    if (typeof options === "object" && options !== null) {
      for (const name of OPTION_TENSORS) {
        const tensor: unknown = options[name];
        if (tensor !== undefined) bindings[name] = this.#bufferOf(where, name, tensor);
      }
    }
    return bindings;
  }

  #bufferOf(where: string, name: string, tensor: unknown): Storage["buffer"] {
    const { buffer } = storageOf(where, name, tensor);
    if (Tensor.owner(tensor as Tensor) !== this.#owner) {
      refuse("FA_TENSOR", {
        where: `${where}(${name})`,
        rule: `${name} must be a tensor of this instance`,
        got: "a tensor of another Attention",
        fix: "Read it with data() and make it anew with this instance's tensor().",
      });
    }
    return buffer;
  }

  /** An `attention` call, validated and planned; of what was called before, as it was then. */
  #attentionCall(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Call {
    const last = this.#last;
    if (last && isLike(last, q, k, v, options)) return last.call;
    const key = callKey(q, k, v, options);
    const known = key === undefined ? undefined : this.#calls.get(key);
    if (known) {
      this.#last = { q: Tensor.kind(q), k: Tensor.kind(k), v: Tensor.kind(v), options: { ...options }, call: known };
      return known;
    }
    const problem = attentionProblem({ q, k, v }, options);
    const call = this.#call("attention", problem, attentionResults(problem, options));
    if (key !== undefined) {
      if (this.#calls.size === KNOWN_CALLS) this.#calls.delete(this.#calls.keys().next().value!);
      this.#calls.set(key, call);
    }
    return call;
  }

  #call(where: string, problem: Problem, specs: ResultSpecs): Call {
    const planned = this.#plan(where, problem);
    const results = Object.entries(specs).map(([name, { shape, dtype }]): Result => {
      checkShape(where, shape);
      return { name, shape: Object.freeze([...shape]), dtype, bytes: elementsOf(shape) * bytesPerElement(dtype) };
    });
    return { planned, results };
  }

  #plan<P extends Problem>(where: string, problem: P): Plan<P> {
    const { name, capabilities, kernels } = this.#backend;
    const planned = plan(problem, capabilities, kernels);
    if (!planned.ok) throw refusalError(where, name, planned);
    return planned;
  }

  /**
   * Allocates the results, adds them to the bindings, and enqueues. On failure the results are freed and nothing else has changed. A back
   * end that need not wait costs no turn of the event loop.
   */
  #run(where: string, { planned, results }: Call, bindings: Buffers): Tensors | Promise<Tensors> {
    const tensors = this.#allocate(results, bindings);
    const failed = (error: unknown): never => {
      disposeAll(tensors);
      if (error instanceof FaError) throw error;
      throw new FaError(
        "FA_BACKEND",
        `${where}: back end ${this.#backend.name} must run the plan; got ${String(error)}. Please report it with this plan:\n${describePlan(planned)}`,
        { cause: error },
      );
    };
    try {
      const running = this.#backend.run(planned, bindings);
      return running ? running.then(() => tensors, failed) : tensors;
    } catch (error) {
      return failed(error);
    }
  }

  /** New tensors for results, all or none; their buffers join the bindings. */
  #allocate(results: readonly Result[], bindings: Buffers): Tensors {
    const tensors: Tensors = {};
    try {
      for (const { name, shape, dtype, bytes } of results) {
        const buffer = this.#backend.allocate(bytes);
        bindings[name] = buffer;
        tensors[name] = this.#own(buffer, shape, dtype);
      }
      return tensors;
    } catch (error) {
      disposeAll(tensors);
      throw error;
    }
  }

  #lacks(where: string, what: string): never {
    refuse("FA_UNSUPPORTED", {
      where,
      rule: `the back end must have ${what}`,
      got: this.#backend.name,
      fix: "Use it with webgpu().",
    });
  }
}

/** A call, validated and planned: what is the same whenever shapes, dtypes and options are. */
interface Call {
  readonly planned: Plan;
  readonly results: readonly Result[];
}

interface Result {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly bytes: number;
}

type Tensors = Record<string, Tensor>;
type Buffers = Record<string, Storage["buffer"]>;

function disposeAll(tensors: Tensors): void {
  for (const tensor of Object.values(tensors)) tensor.dispose();
}

/** Calls that an instance remembers. */
const KNOWN_CALLS = 256;

/** The call before, which the next is most likely to be like: found without its text. */
interface LastCall {
  readonly q: string;
  readonly k: string;
  readonly v: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly call: Call;
}

/** Whether a call's key is that of the last one; false also where only the key can tell. */
function isLike(last: LastCall, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): boolean {
  if (last.q !== Tensor.kind(q) || last.k !== Tensor.kind(k) || last.v !== Tensor.kind(v)) return false;
  if (typeof options !== "object" || options === null) return false;
  if (Object.getPrototypeOf(options) !== Object.prototype) return false;
  let names = 0;
  for (const name in options) {
    const value: unknown = (options as Record<string, unknown>)[name];
    // Not undefined, nor a function: those any name may have in common with what `last` lacks.
    if (typeof value !== "number" && typeof value !== "boolean" && typeof value !== "string") return false;
    if (value !== last.options[name]) return false;
    names++;
  }
  for (const _ in last.options) names--;
  return names === 0;
}

/**
 * All that validation and planning see of an `attention` call, as text; undefined where options hold more than known names of numbers, words,
 * a window and tensors.
 */
function callKey(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): string | undefined {
  let key = `${Tensor.kind(q)} ${Tensor.kind(k)} ${Tensor.kind(v)}`;
  if (typeof options !== "object" || options === null) return undefined;
  if (Object.getPrototypeOf(options) !== Object.prototype) return undefined;
  for (const name of Object.keys(options)) {
    if (!ATTENTION_OPTIONS.includes(name)) return undefined;
    const value: unknown = (options as Record<string, unknown>)[name];
    if (typeof value === "number" || typeof value === "boolean" || value === undefined) key += ` ${name}=${value}`;
    else if (typeof value === "string") key += ` ${name}=${JSON.stringify(value)}`;
    else if (value instanceof Tensor) key += ` ${name}=${Tensor.kind(value)}`;
    else if (isPair(value)) key += ` ${name}=[${value[0]},${value[1]}]`;
    else return undefined;
  }
  return key;
}

function isPair(value: unknown): value is [number, number] {
  return Array.isArray(value) && value.length === 2 && typeof value[0] === "number" && typeof value[1] === "number";
}

type ResultSpecs = Readonly<Record<string, { readonly shape: readonly number[]; readonly dtype: DType }>>;

function attentionResults(problem: AttentionProblem, { returnLse }: AttentionOptions): ResultSpecs {
  return {
    out: { shape: outShape(problem), dtype: problem.resultDType },
    ...(returnLse && { lse: { shape: lseShape(problem), dtype: "float32" } }),
  };
}
