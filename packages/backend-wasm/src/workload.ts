/** Puts together what the threads of an instance do for one plan: its memory and its job. */
import { sizeOf, writeFields, type Fields, type Values } from "./abi.ts";
import { CALL_TAIL, CALL_WORDS, CHAIN_WORDS, CONTROL_WORDS, type Job, type ThreadMemory } from "./job.ts";
import type { FaWasmModule, Kernels } from "./module.ts";
import { layOut, totalBytes, type Pieces } from "./workspace.ts";

/** As much as the linker gives the calling thread. */
const STACK_BYTES = 65536;

/** Workspace of a plan: what all threads see, and what each has for itself, its struct of parameters among it. */
export interface Layout {
  readonly shared: Pieces;
  readonly scratch: Pieces & { readonly params: number };
}

export function bytesOf({ shared, scratch }: Layout, threads: number): number {
  return totalBytes(shared) + threads * totalBytes(scratch) + (threads - 1) * STACK_BYTES;
}

/** A call of a kernel: with a struct and words for its end, or, without a struct, with arguments. */
export interface Call {
  readonly kernel: keyof Kernels;
  readonly struct?: number | undefined;
  readonly words: readonly number[];
  /** Made only after so many calls of a chain before. */
  readonly after?: { readonly chain: number; readonly calls: number } | undefined;
}

export interface Workload {
  readonly job: Job;
  /** The memory of each thread that may take part, the calling one first. */
  readonly threads: readonly ThreadMemory[];
  /** What the calling thread does once all chains are finished. */
  readonly finish: () => void;
  /** Gives the workspace back. */
  readonly release: () => void;
}

export class WorkloadBuilder {
  /** Address of each shared piece. */
  readonly shared: Readonly<Record<string, number>>;
  /** Where each piece of a thread's own lies in it, for the fields of structs. */
  readonly scratch: Readonly<Record<string, number>>;
  readonly #module: FaWasmModule;
  readonly #fields: Fields;
  readonly #tailWords: number;
  readonly #threads: readonly ThreadMemory[];
  readonly #address: number;
  readonly #kernels: (keyof Kernels)[] = [];
  readonly #structs: Int32Array[] = [];
  readonly #common: Int32Array;
  readonly #calls: number[] = [];
  readonly #chains: number[] = [];
  #before = 0;

  /**
   * @param fields of the struct of parameters, of which `tail` are the last
   * @throws FaError FA_OUT_OF_MEMORY
   */
  constructor(module: FaWasmModule, fields: Fields, tail: Fields, layout: Layout, threads: number) {
    this.#module = module;
    this.#fields = fields;
    this.#tailWords = Object.keys(tail).length;
    this.#common = new Int32Array(sizeOf(fields) / 4);
    this.#address = module.arena.allocate(bytesOf(layout, threads));
    this.shared = layOut(layout.shared, this.#address);
    const { params, ...scratch } = layOut(layout.scratch, 0);
    this.scratch = scratch;
    const first = this.#address + totalBytes(layout.shared);
    const scratchBytes = totalBytes(layout.scratch);
    this.#threads = Array.from({ length: threads }, (_, index) => {
      const at = first + index * (scratchBytes + STACK_BYTES);
      return { index, scratch: at, params: at + params, stackTop: at };
    });
  }

  /** Chains so far. */
  get chains(): number {
    return this.#chains.length / CHAIN_WORDS;
  }

  /** What all structs from here on have, unless they say otherwise; else zeros: every step off, every pointer null. */
  common(...values: readonly Values[]): void {
    for (const some of values) writeFields(this.#common, this.#fields, some);
  }

  /** Its number is for calls. */
  struct(...values: readonly Values[]): number {
    const words = this.#common.slice();
    for (const some of values) writeFields(words, this.#fields, some);
    return this.#structs.push(words) - 1;
  }

  /** Chains from here on begin only when all chains so far are finished. */
  barrier(): void {
    this.#before = this.chains;
  }

  /** Calls that one thread makes in order. Gives the chain's number. */
  chain(calls: readonly Call[]): number {
    const first = this.#calls.length / CALL_WORDS;
    for (const { kernel, struct = -1, words, after } of calls) {
      if (!this.#kernels.includes(kernel)) this.#kernels.push(kernel);
      const head = [this.#kernels.indexOf(kernel), struct, after?.chain ?? -1, after?.calls ?? 0];
      const padding = Array.from({ length: CALL_WORDS - CALL_TAIL - words.length }, () => 0);
      this.#calls.push(...head, ...words, ...padding);
    }
    this.#chains.push(first, first + calls.length, this.#before);
    return this.chains - 1;
  }

  build(finish: () => void = () => {}): Workload {
    const structWords = sizeOf(this.#fields) / 4;
    const progress = CONTROL_WORDS;
    const chainTable = progress + this.chains;
    const calls = chainTable + this.#chains.length;
    const structs = calls + this.#calls.length;
    const length = structs + this.#structs.length * structWords;
    const memory = this.#threads.length > 1 ? new SharedArrayBuffer(length * 4) : new ArrayBuffer(length * 4);
    const words = new Int32Array(memory);
    words.set(this.#chains, chainTable);
    words.set(this.#calls, calls);
    for (const [n, struct] of this.#structs.entries()) words.set(struct, structs + n * structWords);
    const names = Object.keys(this.#fields);
    const job: Job = {
      words,
      chains: this.chains,
      progress,
      chainTable,
      calls,
      structs,
      structWords,
      tailWords: this.#tailWords,
      moved: Object.keys(this.scratch).map((name) => names.indexOf(name)),
      kernels: this.#kernels,
    };
    return { job, threads: this.#threads, finish, release: () => this.release() };
  }

  release(): void {
    this.#module.arena.free(this.#address);
  }
}
