/** `@fa/backend-wasm`: attention on WebAssembly SIMD, in browsers and Node. */
import { checkOptions, refuse, show, type BackendProvider } from "@fa/core";
import { WasmBackend } from "./backend.ts";
import { createModule, supportedVariant, type Variant } from "./module.ts";

export { createModule, loadBinary, supportedVariant } from "./module.ts";
export type { FaModuleArg, FaWasmModule, Kernels, Variant } from "./module.ts";
export { KERNELS } from "./kernels.ts";

export interface WasmOptions {
  /** The most threads to use. This version computes on one whatever it is. */
  readonly threads?: number | undefined;
}

const DEVICES: Readonly<Record<Variant, string>> = {
  relaxed: "WebAssembly relaxed SIMD, one thread",
  plain: "WebAssembly SIMD, one thread",
};

const REASONS: Readonly<Record<Variant, string>> = {
  relaxed: "relaxed SIMD, which this engine has; one thread, as this version always takes",
  plain: "plain SIMD: this engine does not validate relaxed SIMD; one thread, as this version always takes",
};

/**
 * The back end that works wherever there is WebAssembly SIMD: no network, no file, no worker, no `eval`; a page with a
 * content security policy needs `wasm-unsafe-eval`.
 * @throws FaError FA_OPTION
 */
export function wasm(options: WasmOptions = {}): BackendProvider {
  checkOptions("wasm", options, ["threads"]);
  const { threads = 1 } = options;
  if (!Number.isSafeInteger(threads) || threads < 1) {
    refuse("FA_OPTION", {
      where: "wasm(threads)",
      rule: "threads must be an integer from 1",
      got: show(threads),
      fix: "Leave it out for the default.",
    });
  }
  return {
    name: "wasm",
    async probe() {
      try {
        const variant = supportedVariant();
        return { ok: true, device: DEVICES[variant], reason: REASONS[variant] };
      } catch (error) {
        return { ok: false, reason: (error as Error).message };
      }
    },
    async open() {
      const variant = supportedVariant();
      return new WasmBackend(await createModule(), variant, DEVICES[variant]);
    },
  };
}
