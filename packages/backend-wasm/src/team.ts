/** The threads of one instance: the calling one, and workers that help it. */
import { FaError } from "@fa/core";
import { CONTROL, work, type Job, type ThreadMemory } from "./job.ts";
import type { FaWasmModule } from "./module.ts";
import type { Workload } from "./workload.ts";
import { pool, type Follower, type PoolWorker } from "./pool.ts";

/** The calling thread gives way to other events after this long. */
const SLICE_MS = 10;

/** Instances that were dropped without `dispose` leave the pool when they are collected. */
const dropped = new FinalizationRegistry<number>((instance) => pool.leave(instance));

let instances = 0;
let jobs = 0;

/** On the calling thread alone, without a pause. */
export function runAlone(module: FaWasmModule, { job, threads: [thread] }: Workload): void {
  const [functions, memory] = [module.wasmExports, module.wasmMemory];
  for (const _ of work(job, { ...thread, functions, memory }));
}

export class Team {
  /** Threads, the calling one among them. */
  readonly size: number;
  readonly #instance = ++instances;
  readonly #module: FaWasmModule;
  readonly #compiled: WebAssembly.Module;
  /** The job at hand: there is never more than one. */
  #current:
    | { readonly helpers: Map<PoolWorker, number>; readonly number: number; readonly words: Int32Array }
    | undefined;
  #failure: string | undefined;
  #wake: (() => void) | undefined;
  readonly #follower: Follower = {
    left: (worker, number, error) => {
      if (number !== this.#current?.number) return;
      this.#current.helpers.delete(worker);
      if (error !== undefined) this.#failure ??= `a worker failed: ${error}`;
      this.#wake?.();
    },
    ended: (worker, why) => {
      const thread = this.#current?.helpers.get(worker);
      if (thread === undefined) return;
      const { words, helpers } = this.#current!;
      helpers.delete(worker);
      if (Atomics.load(words, CONTROL.inside + thread) === 1) {
        this.#failure ??= `a worker ended in the middle of the call: ${why}`;
        Atomics.store(words, CONTROL.aborted, 1);
      }
      this.#wake?.();
    },
  };

  /** @param compiled what `module` is an instance of, on shared memory */
  constructor(module: FaWasmModule, compiled: WebAssembly.Module, size: number) {
    this.#module = module;
    this.#compiled = compiled;
    this.size = size;
    pool.enter(this.#instance);
    dropped.register(this, this.#instance, this);
  }

  /**
   * Resolves when all chains are finished and no other thread touches the job's memory any more.
   * @throws FaError FA_BACKEND when a worker fails or ends in the middle; then too nobody touches the memory
   */
  async run({ job, threads }: Workload): Promise<void> {
    const { words } = job;
    const number = ++jobs;
    const helpers = new Map<PoolWorker, number>();
    this.#failure = undefined;
    this.#current = { helpers, number, words };
    pool.follow(this.#follower);
    const workers = pool.workers(threads.length - 1);
    for (const [n, worker] of workers.entries()) {
      worker.retain();
      this.#introduce(worker);
      helpers.set(worker, n + 1);
      worker.port.post({ kind: "help", instance: this.#instance, number, job, thread: threads[n + 1] });
    }
    try {
      await this.#lead(job, threads[0]);
    } catch (error) {
      this.#failure ??= String(error);
      Atomics.store(words, CONTROL.aborted, 1);
      throw error;
    } finally {
      await this.#everyoneOut();
      this.#current = undefined;
      pool.unfollow(this.#follower);
      for (const worker of workers) worker.release();
    }
    const failure = this.#failure as string | undefined; // by a worker's message, meanwhile
    if (failure !== undefined) {
      throw new FaError(
        "FA_BACKEND",
        `wasm: every thread must finish its part; got ${failure}. Its results are lost; the next call starts another worker.`,
      );
    }
  }

  close(): void {
    dropped.unregister(this);
    pool.leave(this.#instance);
  }

  #introduce(worker: PoolWorker): void {
    if (worker.opened.has(this.#instance)) return;
    worker.opened.add(this.#instance);
    const memory = this.#module.wasmMemory;
    worker.port.post({ kind: "open", instance: this.#instance, module: this.#compiled, memory });
  }

  async #lead(job: Job, thread: ThreadMemory): Promise<void> {
    const [functions, memory] = [this.#module.wasmExports, this.#module.wasmMemory];
    let pauseAt = performance.now() + SLICE_MS;
    for (const wait of work(job, { ...thread, functions, memory })) {
      if (wait === undefined && performance.now() < pauseAt) continue;
      await pause();
      pauseAt = performance.now() + SLICE_MS;
    }
  }

  /** Waits until no helper can touch the job's memory: one that comes later finds nothing to do. */
  async #everyoneOut(): Promise<void> {
    const { helpers, words } = this.#current!;
    const someoneInside = (): boolean =>
      [...helpers.values()].some((thread) => Atomics.load(words, CONTROL.inside + thread) === 1);
    const mustExplain = (): boolean =>
      Atomics.load(words, CONTROL.aborted) === 1 && this.#failure === undefined && helpers.size > 0;
    while (someoneInside() || mustExplain()) await new Promise<void>((resolve) => (this.#wake = resolve));
    this.#wake = undefined;
  }
}

/** Lets other events of this thread come to pass. */
function pause(): Promise<void> {
  return new Promise((resolve) => {
    if (typeof setImmediate === "function") setImmediate(resolve);
    else {
      const { port1, port2 } = new MessageChannel();
      port1.addEventListener("message", () => {
        port1.close();
        resolve();
      });
      port1.start();
      port2.postMessage(undefined);
    }
  });
}
