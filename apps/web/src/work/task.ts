import type { FromWorker, Kind, Work } from "./work.ts";

export interface Task {
  /** How it ended. Rejects with the reason when it could not be done. */
  readonly done: Promise<"finished" | "cancelled">;
  /** Ends it at once, in the middle of whatever it does. */
  cancel(): void;
}

/**
 * Starts work on a worker of its own, so that the page stays live and stopping means ending the worker: what it had on
 * the GPU and its own workers go with it.
 */
export function start<K extends Kind>(kind: K, ask: Work[K]["ask"], tell: (told: Work[K]["tell"]) => void): Task {
  const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: `fa-${kind}` });
  const { promise, resolve, reject } = Promise.withResolvers<"finished" | "cancelled">();
  worker.addEventListener("message", ({ data }: MessageEvent<FromWorker>) => {
    if (data.kind === "tell") tell(data.tell as Work[K]["tell"]);
    else if (data.kind === "end") resolve("finished");
    else reject(new Error(data.message));
  });
  worker.addEventListener("error", (event) => {
    event.preventDefault();
    reject(new Error(event.message || "the worker's script could not be loaded"));
  });
  worker.postMessage({ kind, ask }, []);
  return { done: promise.finally(() => worker.terminate()), cancel: () => resolve("cancelled") };
}
