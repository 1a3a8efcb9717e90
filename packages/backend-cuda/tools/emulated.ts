/**
 * The back end with CUDA played on the CPU (native/emulate), for machines without a GPU:
 * `node --conditions=@fa/source packages/conformance/src/cli.ts -b ./packages/backend-cuda/tools/emulated.ts`
 */
import type { BackendProvider } from "@fa/core";
import { cuda as onDevice, type CudaOptions } from "../src/index.ts";
import { emulatedAddon } from "./build.ts";

const { path, why } = { why: "", ...(await emulatedAddon()) };
if (path === undefined) throw new Error(why);

export function cuda(options: CudaOptions = {}): BackendProvider {
  return onDevice({ ...options, addon: path });
}
