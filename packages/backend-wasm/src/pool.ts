/** The workers of this process: one pool for all instances, since they share the machine's cores. */
import type { FromWorker, ToWorker } from "./worker.ts";

/** What the two kinds of worker, Node's and a browser's, have in common. */
interface Port {
  post(message: ToWorker): void;
  /** Whether the worker keeps a Node process alive. */
  hold(alive: boolean): void;
  end(): void;
}

interface Listener {
  message(message: FromWorker): void;
  /** It ended, or it could not be started. */
  ended(why: string): void;
}

/** Who has a job in progress, and is told what becomes of the workers. */
export interface Follower {
  left(worker: PoolWorker, number: number, error: string | undefined): void;
  ended(worker: PoolWorker, why: string): void;
}

export class PoolWorker {
  /** Instances that it was given, by number. */
  readonly opened: Set<number> = new Set();
  readonly port: Port;
  ready = false;
  /** How many jobs keep it from being idle. */
  #jobs = 0;

  constructor(port: Port) {
    this.port = port;
  }

  /** From here to the matching `release`, a Node process waits for it. */
  retain(): void {
    if (this.#jobs++ === 0) this.port.hold(true);
  }

  release(): void {
    if (--this.#jobs === 0) this.port.hold(false);
  }
}

class Pool {
  readonly #workers = new Set<PoolWorker>();
  /** Instances by number. The pool holds none of them, so that one that was dropped without `dispose` can be collected. */
  readonly #instances = new Set<number>();
  readonly #followers = new Set<Follower>();
  /** Why no worker can be started: the first failure is remembered, so that calls do not try again and again. */
  #trouble: string | undefined;

  get trouble(): string | undefined {
    return this.#trouble;
  }

  all(): PoolWorker[] {
    return [...this.#workers];
  }

  follow(follower: Follower): void {
    this.#followers.add(follower);
  }

  unfollow(follower: Follower): void {
    this.#followers.delete(follower);
  }

  enter(instance: number): void {
    this.#instances.add(instance);
  }

  /** The workers forget the instance; with the last one they go. */
  leave(instance: number): void {
    if (!this.#instances.delete(instance)) return;
    for (const { opened, port } of this.#workers) if (opened.delete(instance)) port.post({ kind: "close", instance });
    if (this.#instances.size > 0) return;
    for (const { port } of this.#workers) port.end();
    this.#workers.clear();
    this.#trouble = undefined;
  }

  /** At most `count` workers, started if need be. They may not be up yet: what is posted to them waits. */
  workers(count: number): PoolWorker[] {
    while (this.#workers.size < count && this.#trouble === undefined) {
      try {
        this.#start();
      } catch (error) {
        this.#trouble = `a worker could not be started: ${messageOf(error)}`;
      }
    }
    return [...this.#workers].slice(0, count);
  }

  #start(): void {
    const ended = (why: string): void => {
      if (!this.#workers.delete(worker)) return;
      if (!worker.ready) this.#trouble ??= `a worker could not be started: ${why}`;
      for (const follower of this.#followers) follower.ended(worker, why);
    };
    const message = (said: FromWorker): void => {
      if (said.kind === "ready") worker.ready = true;
      else for (const follower of this.#followers) follower.left(worker, said.number, said.error);
    };
    const worker: PoolWorker = new PoolWorker(startWorker({ message, ended }));
    this.#workers.add(worker);
  }
}

export const pool: Pool = new Pool();

/** Node gives its modules without an import that a bundler would see; undefined elsewhere, and before Node 20.16. */
const node = (globalThis as { readonly process?: Partial<NodeJS.Process> }).process;
const nodeThreads = () => node?.getBuiltinModule?.("node:worker_threads");

function startWorker(listener: Listener): Port {
  const threads = nodeThreads();
  return threads ? startNodeWorker(threads, listener) : startWebWorker(listener);
}

/** The program travels as text: a bundle for a server need not carry a file beside it. */
function startNodeWorker(threads: NonNullable<ReturnType<typeof nodeThreads>>, listener: Listener): Port {
  const program = new URL(`data:text/javascript,${encodeURIComponent(workerText())}`);
  const worker = new threads.Worker(program, { name: "fa-wasm", execArgv: [], stdin: false });
  worker.unref();
  let why: string | undefined;
  worker.on("message", (data: FromWorker) => listener.message(data));
  worker.on("error", (error) => (why = messageOf(error)));
  worker.on("exit", (code) => listener.ended(why ?? `it ended with code ${code}`));
  return {
    post: (data) => worker.postMessage(data, []),
    hold: (alive) => (alive ? worker.ref() : worker.unref()),
    end: () => void worker.terminate(),
  };
}

/** The form of words that bundlers know; in the sources, too, the file is worker.ts, which Vite finds. */
function startWebWorker(listener: Listener): Port {
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "fa-wasm" });
  worker.addEventListener("message", ({ data }: MessageEvent<FromWorker>) => listener.message(data));
  worker.addEventListener("error", (event) => {
    event.preventDefault();
    worker.terminate();
    listener.ended(event.message || "its script could not be loaded");
  });
  return { post: (data) => worker.postMessage(data, []), hold: () => {}, end: () => worker.terminate() };
}

let text: string | undefined;

/** @throws Error before `prepareWorkers` */
function workerText(): string {
  if (text === undefined) throw new Error("the program of the workers is not loaded");
  return text;
}

/** Loads what starting a worker needs, so that starting one is not a matter of waiting. */
export async function prepareWorkers(): Promise<void> {
  if (nodeThreads()) ({ text } = await import("./generated/worker-text.ts"));
}

/** Cores that this process may use. */
export function availableCores(): number {
  const os = node?.getBuiltinModule?.("node:os");
  return os?.availableParallelism() ?? globalThis.navigator?.hardwareConcurrency ?? 1;
}

/** Why there can be no threads here, as far as one can tell without trying; undefined if there can. */
export function whyNoThreads(): string | undefined {
  const { crossOriginIsolated } = globalThis as { readonly crossOriginIsolated?: boolean };
  if (crossOriginIsolated === false)
    return "the page is not cross-origin isolated, which shared memory needs (headers COOP and COEP)";
  if (typeof SharedArrayBuffer !== "function") return "there is no SharedArrayBuffer";
  try {
    const { buffer } = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    if (!(buffer instanceof SharedArrayBuffer)) return "WebAssembly has no shared memory";
  } catch {
    return "WebAssembly has no shared memory";
  }
  if (node?.permission?.has("worker") === false) return "Node's --permission forbids workers (--allow-worker)";
  if (!nodeThreads() && typeof Worker !== "function") return "there are no workers";
  return pool.trouble;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
