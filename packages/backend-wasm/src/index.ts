/** `@fa/backend-wasm`: attention on WebAssembly SIMD, in browsers and Node. */
import { checkOptions, refuse, show, type BackendProvider } from "@fa/core";
import { WasmBackend } from "./backend.ts";
import { createModule, loadBinary, supportedVariant, type Variant } from "./module.ts";

export { createModule, loadBinary, supportedVariant } from "./module.ts";
export type { FaModuleArg, FaWasmModule, Kernels, Variant } from "./module.ts";
export { KERNELS } from "./kernels.ts";

export interface WasmOptions {
  /** The most threads to use. This version computes on one whatever it is. */
  readonly threads?: number | undefined;
  /**
   * `"relaxed"` (default where the engine has it) multiplies and adds in one rounding where the machine does; `"plain"`
   * gives the same bits on every machine.
   */
  readonly simd?: Variant | undefined;
}

const DEVICES: Readonly<Record<Variant, string>> = {
  relaxed: "WebAssembly relaxed SIMD, one thread",
  plain: "WebAssembly SIMD, one thread",
};

const REASONS: Readonly<Record<Variant, string>> = {
  relaxed: "relaxed SIMD, which this engine has; one thread, as this version always takes",
  plain: "plain SIMD; one thread, as this version always takes",
};

/**
 * The back end that works wherever there is WebAssembly SIMD: no network, no file, no worker, no `eval`; a page with a
 * content security policy needs `wasm-unsafe-eval`.
 * @throws FaError FA_OPTION
 */
export function wasm(options: WasmOptions = {}): BackendProvider {
  checkOptions("wasm", options, ["threads", "simd"]);
  const { threads = 1, simd } = options;
  if (!Number.isSafeInteger(threads) || threads < 1) {
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
  return {
    name: "wasm",
    async probe() {
      try {
        const best = supportedVariant();
        if (simd === "relaxed" && best === "plain") return { ok: false, reason: "the engine has no relaxed SIMD" };
        const variant = simd ?? best;
        return { ok: true, device: DEVICES[variant], reason: REASONS[variant] };
      } catch (error) {
        return { ok: false, reason: (error as Error).message };
      }
    },
    async open() {
      const variant = simd ?? supportedVariant();
      const module = await createModule({ wasmBinary: await loadBinary(variant) });
      return new WasmBackend(module, variant, DEVICES[variant]);
    },
  };
}
