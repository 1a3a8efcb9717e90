/** `@fa/backend-wasm`: attention on WebAssembly SIMD, in browsers and Node. */
import { checkOptions, refuse, show, type BackendProvider } from "@fa/core";
import { countOfThreads, WasmBackend } from "./backend.ts";
import { BLOCK_ROWS, calibrationOf, nameOf, type BlockRows } from "./calibration.ts";
import { MAX_THREADS } from "./job.ts";
import { compiled, createModule, newMemory, supportedVariant, type Variant } from "./module.ts";
import { availableCores, prepareWorkers, whyNoThreads } from "./pool.ts";
import { Team } from "./team.ts";
import { VERSION } from "./version.ts";

export { createModule, loadBinary, supportedVariant } from "./module.ts";
export type { FaModuleArg, FaWasmModule, Kernels, Variant } from "./module.ts";
export type { BlockRows } from "./calibration.ts";
export { KERNELS } from "./kernels.ts";

export interface WasmOptions {
  /**
   * The most threads to compute on, at most 16; by default as many as there are cores. The results do not depend on it. Where
   * threads cannot be had it is one, and the report says why.
   */
  readonly threads?: number | undefined;
  /**
   * `"relaxed"` (default where the engine has it) multiplies and adds in one rounding where the machine does; `"plain"`
   * gives the same bits on every machine.
   */
  readonly simd?: Variant | undefined;
  /**
   * Rows of the register blocks of products, 4 or 6; by default the faster one, by trials of some milliseconds between the first
   * calls of the process. The results do not depend on it.
   */
  readonly blockRows?: BlockRows | undefined;
}

const DEVICES: Readonly<Record<Variant, string>> = { relaxed: "WebAssembly relaxed SIMD", plain: "WebAssembly SIMD" };
const REASONS: Readonly<Record<Variant, string>> = {
  relaxed: "relaxed SIMD, which this engine has",
  plain: "plain SIMD",
};

/**
 * The back end that works wherever there is WebAssembly SIMD: no network, no `eval`; a page with a content security policy
 * needs `wasm-unsafe-eval`, and for threads cross-origin isolation.
 * @throws FaError FA_OPTION
 */
export function wasm(options: WasmOptions = {}): BackendProvider {
  checkOptions("wasm", options, ["threads", "simd", "blockRows"]);
  const { threads, simd, blockRows } = options;
  if (threads !== undefined && (!Number.isSafeInteger(threads) || threads < 1)) {
    refuse("FA_OPTION", {
      where: "wasm(threads)",
      rule: "threads must be an integer from 1",
      got: show(threads),
      fix: "Leave it out for the default.",
    });
  }
  if (simd !== undefined && simd !== "relaxed" && simd !== "plain") {
    refuse("FA_OPTION", {
      where: "wasm(simd)",
      rule: `simd must be "relaxed" or "plain"`,
      got: show(simd),
      fix: "Leave it out for the best that the engine has.",
    });
  }
  if (blockRows !== undefined && !BLOCK_ROWS.includes(blockRows)) {
    refuse("FA_OPTION", {
      where: "wasm(blockRows)",
      rule: "blockRows must be 4 or 6",
      got: show(blockRows),
      fix: "Leave it out for the faster one.",
    });
  }
  return {
    name: "wasm",
    async probe() {
      try {
        const best = supportedVariant();
        if (simd === "relaxed" && best === "plain") return { ok: false, reason: "the engine has no relaxed SIMD" };
        const variant = simd ?? best;
        const { count, why } = chooseThreads(threads);
        const device = `${DEVICES[variant]}, ${countOfThreads(count)}`;
        const blocks = blockRows ? `${nameOf(blockRows)}, as asked for` : blocksSoFar(variant);
        const reason = `${REASONS[variant]}; ${countOfThreads(count)}, ${why}; ${blocks}`;
        return { ok: true, device, reason, identity: `${VERSION}, block rows ${blockRows ?? "by trials"}` };
      } catch (error) {
        return { ok: false, reason: (error as Error).message };
      }
    },
    async open() {
      const variant = simd ?? supportedVariant();
      const { count, alone } = chooseThreads(threads);
      const memory = count > 1 ? sharedMemory() : undefined;
      const device = (n: number, why = ""): string => `${DEVICES[variant]}, ${countOfThreads(n)}${why}`;
      if (!memory) {
        const why = count > 1 ? "the machine has no addresses left for shared memory" : alone;
        const wasmModule = await compiled(variant, false);
        const module = await createModule({ instantiateWasm: instantiating(wasmModule) });
        return new WasmBackend(module, variant, device(1, why && ` (${why})`), { blockRows });
      }
      const [wasmModule] = await Promise.all([compiled(variant, true), prepareWorkers()]);
      const module = await createModule({ wasmMemory: memory, instantiateWasm: instantiating(wasmModule) });
      return new WasmBackend(module, variant, device(count), { team: new Team(module, wasmModule, count), blockRows });
    },
  };
}

function blocksSoFar(variant: Variant): string {
  const { outcome, rows } = calibrationOf(variant);
  return outcome ?? `${nameOf(rows)} until calls have told which are faster`;
}

interface ThreadChoice {
  readonly count: number;
  /** For the report. */
  readonly why: string;
  /** Why there is only one although more were wanted. */
  readonly alone?: string | undefined;
}

function chooseThreads(asked: number | undefined): ThreadChoice {
  const count = Math.min(asked ?? availableCores(), MAX_THREADS);
  if (count === 1) return { count, why: asked === undefined ? "since there is one core" : "as asked for" };
  const alone = whyNoThreads();
  if (alone !== undefined) return { count: 1, why: `since ${alone}`, alone };
  return { count, why: asked === undefined ? "one a core" : "as asked for" };
}

function sharedMemory(): WebAssembly.Memory | undefined {
  try {
    return newMemory(true);
  } catch {
    return undefined;
  }
}

function instantiating(module: WebAssembly.Module) {
  return async (imports: WebAssembly.Imports, receive: (instance: WebAssembly.Instance) => void): Promise<void> =>
    receive(await WebAssembly.instantiate(module, imports));
}
