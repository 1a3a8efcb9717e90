/** The program of a worker: helps with jobs of any instance, until it is ended. */
import { CONTROL, work, type Job, type Thread, type ThreadMemory } from "./job.ts";

/** What a worker is told. */
export type ToWorker =
  | {
      readonly kind: "open";
      readonly instance: number;
      readonly module: WebAssembly.Module;
      readonly memory: WebAssembly.Memory;
    }
  | { readonly kind: "close"; readonly instance: number }
  | {
      readonly kind: "help";
      readonly instance: number;
      readonly number: number;
      readonly job: Job;
      readonly thread: ThreadMemory;
    };

/** What it answers. It is ready once it is loaded, and leaves each job that it was given, with what went wrong. */
export type FromWorker =
  | { readonly kind: "ready" }
  | { readonly kind: "left"; readonly number: number; readonly error?: string | undefined };

interface Instance {
  readonly functions: Thread["functions"];
  readonly stackPointer: WebAssembly.Global<"i32">;
  readonly memory: WebAssembly.Memory;
}

/** A wait ends by itself after this long, to see whether the job was aborted. */
const WAIT_MS = 20;

const instances = new Map<number, Instance>();

function receive(message: ToWorker): void {
  switch (message.kind) {
    case "open": {
      const { module, memory } = message;
      const { exports } = new WebAssembly.Instance(module, { env: { memory } });
      const stackPointer = exports["__stack_pointer"] as WebAssembly.Global<"i32">;
      instances.set(message.instance, { functions: exports as unknown as Thread["functions"], stackPointer, memory });
      return;
    }
    case "close":
      instances.delete(message.instance);
      return;
    case "help": {
      const { number, job, thread } = message;
      const { words } = job;
      let error: string | undefined;
      // Before it looks for work: who comes after the job has ended finds no chain left, or that it was aborted, and does not
      // touch the memory, which has a new owner then.
      Atomics.store(words, CONTROL.inside + thread.index, 1);
      try {
        help(instances.get(message.instance)!, job, thread);
      } catch (thrown) {
        error = String(thrown);
        Atomics.store(words, CONTROL.aborted, 1);
      }
      send({ kind: "left", number, error });
      Atomics.store(words, CONTROL.inside + thread.index, 0);
    }
  }
}

function help({ functions, stackPointer, memory }: Instance, job: Job, thread: ThreadMemory): void {
  stackPointer.value = thread.stackTop;
  for (const wait of work(job, { ...thread, functions, memory })) {
    if (wait) Atomics.wait(job.words, wait.index, wait.value, WAIT_MS);
  }
}

/** The parts of a browser's worker that this file uses: the types of a window are not those of a worker. */
interface WorkerScope {
  addEventListener(type: "message", listener: (event: { readonly data: ToWorker }) => void): void;
  postMessage(message: FromWorker, transfer: []): void;
}

const node = globalThis.process?.getBuiltinModule?.("node:worker_threads").parentPort;
const scope = globalThis as unknown as WorkerScope;
const send = (message: FromWorker): void => (node ?? scope).postMessage(message, []);
if (node) node.on("message", receive);
else scope.addEventListener("message", ({ data }) => receive(data));
send({ kind: "ready" });
