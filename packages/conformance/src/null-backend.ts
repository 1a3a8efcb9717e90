import {
  DTYPES,
  FLOAT_DTYPES,
  MAX_HEAD_DIM,
  SCORE_STEPS,
  type Backend,
  type BackendProvider,
  type Bindings,
  type DeviceBuffer,
  type KernelRow,
  type Plan,
} from "@fa/core";

/** What a null back end was told to do, in order. */
export type Recorded =
  | { readonly call: "allocate"; readonly bytes: number; readonly contents: "copied" | "zero" | "none" }
  | { readonly call: "run"; readonly plan: Plan; readonly bindings: Bindings }
  | { readonly call: "read" | "free"; readonly bytes: number }
  | { readonly call: "sync" | "dispose" };

/** A provider that computes nothing and records every call: for tests of what lies above a back end. */
export interface NullProvider extends BackendProvider {
  readonly calls: Recorded[];
}

/** A back end whose buffers keep what was written and whose kernels leave results as zeros. */
export function nullBackend(name = "null"): NullProvider {
  const calls: Recorded[] = [];
  return { name, calls, probe: async () => ({ ok: true }), open: async () => new NullBackend(name, calls) };
}

interface NullBuffer extends DeviceBuffer {
  readonly contents: Uint8Array<ArrayBuffer>;
}

const OPS = ["attention", "attentionBackward", "linear", "linearBackward", "cast"] as const;

class NullBackend implements Backend {
  readonly name: string;
  readonly device = "nothing";
  readonly capabilities = {
    dtypes: DTYPES,
    maxHeadDim: MAX_HEAD_DIM,
    sharedBytes: Infinity,
    maxBufferBytes: Infinity,
    features: [],
  };
  readonly kernels: readonly KernelRow[] = OPS.map((op) => ({
    id: `null-${op}`,
    op,
    dtypes: FLOAT_DTYPES,
    steps: SCORE_STEPS,
    needs: [],
    tile: { q: 64, kv: 64 },
    maxTile: { q: Infinity, kv: Infinity },
    workspaceBytes: () => 0,
  }));
  readonly #calls: Recorded[];
  #currentBytes = 0;
  #peakBytes = 0;

  constructor(name: string, calls: Recorded[]) {
    this.name = name;
    this.#calls = calls;
  }

  allocate(bytes: number, contents?: Uint8Array | "zero"): NullBuffer {
    this.#calls.push({
      call: "allocate",
      bytes,
      contents: contents instanceof Uint8Array ? "copied" : (contents ?? "none"),
    });
    this.#currentBytes += bytes;
    this.#peakBytes = Math.max(this.#peakBytes, this.#currentBytes);
    return { bytes, contents: contents instanceof Uint8Array ? Uint8Array.from(contents) : new Uint8Array(bytes) };
  }

  async read({ bytes, contents }: NullBuffer): Promise<Uint8Array<ArrayBuffer>> {
    this.#calls.push({ call: "read", bytes });
    return contents.slice();
  }

  free({ bytes }: NullBuffer): void {
    this.#calls.push({ call: "free", bytes });
    this.#currentBytes -= bytes;
  }

  run(plan: Plan, bindings: Bindings): void {
    this.#calls.push({ call: "run", plan, bindings });
  }

  async sync(): Promise<void> {
    this.#calls.push({ call: "sync" });
  }

  memory() {
    return { currentBytes: this.#currentBytes, peakBytes: this.#peakBytes };
  }

  async roof() {
    return { gflops: 0, what: "nothing" };
  }

  async dispose(): Promise<void> {
    this.#calls.push({ call: "dispose" });
  }
}
