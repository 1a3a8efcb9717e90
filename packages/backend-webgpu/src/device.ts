import { FaError } from "@fa/core";

/** What went wrong inside `scoped`, known when the device has looked at it. */
export type Verdict = Promise<FaError | undefined>;

/** From the outermost in. */
const SCOPES = ["out-of-memory", "validation", "internal"] as const;

/** A `GPUDevice` and what became of it. Errors of its are typed here and nowhere else. */
export class Device {
  readonly gpu: GPUDevice;
  /** Whether we made it, and so may destroy it. */
  readonly owned: boolean;
  #lost: FaError | undefined;

  constructor(gpu: GPUDevice, owned: boolean) {
    this.gpu = gpu;
    this.owned = owned;
    void this.#watch();
  }

  async #watch(): Promise<void> {
    const { reason, message } = await this.gpu.lost;
    const how = reason === "destroyed" ? "it was destroyed" : message || "no reason given";
    this.#lost = new FaError(
      "FA_DEVICE_LOST",
      `webgpu: the device must be there; got a lost one: ${how}. Make a new Attention with createAttention.`,
    );
  }

  throwIfLost(): void {
    if (this.#lost) throw this.#lost;
  }

  /** The promise's value; a rejection as the error that it means. */
  async settle<T>(what: string, promise: Promise<T>): Promise<T> {
    try {
      const value = await promise;
      this.throwIfLost();
      return value;
    } catch (error) {
      if (error instanceof FaError) throw error;
      // A device that goes away rejects what hangs on it shortly before, or after, it says that it is lost.
      await new Promise((resolve) => setTimeout(resolve, 0));
      this.throwIfLost();
      throw backendError(what, (error as Error).message || String(error), error);
    }
  }

  /** Opens error scopes. What it returns closes them: to be called once, and outside of whatever was opened since. */
  watch(): (what: string) => Verdict {
    for (const scope of SCOPES) this.gpu.pushErrorScope(scope);
    return (what) =>
      this.#judge(
        what,
        SCOPES.map(() => this.gpu.popErrorScope()),
      );
  }

  /** Runs calls on the device, inside error scopes. */
  scoped<T>(what: string, work: () => T): { readonly value: T; readonly verdict: Verdict } {
    const judge = this.watch();
    let verdict: Verdict;
    let value: T;
    try {
      value = work();
    } finally {
      verdict = judge(what);
    }
    return { value, verdict };
  }

  /** @param popped what the scopes caught, the innermost first */
  async #judge(what: string, popped: readonly Promise<GPUError | null>[]): Verdict {
    try {
      const [internal, validation, memory] = await Promise.all(popped);
      if (this.#lost) return this.#lost;
      // A buffer that was not had makes whatever uses it invalid: the cause comes first.
      if (memory) return outOfMemory(what, memory.message);
      const error = validation ?? internal;
      if (error) return backendError(what, error.message);
      return undefined;
    } catch (error) {
      // Scopes of a device that is gone cannot be left.
      return this.#lost ?? backendError(what, (error as Error).message, error);
    }
  }
}

export function outOfMemory(what: string, got: string): FaError {
  return new FaError(
    "FA_OUT_OF_MEMORY",
    `webgpu: ${what} must fit into the memory of the device; got ${got}. Dispose tensors, or work in smaller pieces.`,
  );
}

function backendError(what: string, got: string, cause?: unknown): FaError {
  return new FaError("FA_BACKEND", `webgpu: ${what} must succeed; got ${got}. Please report it.`, { cause });
}
