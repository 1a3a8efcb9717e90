/** Where this platform's WebGPU comes from: the browser, or Dawn (npm `webgpu`) in Node. */

interface Dawn {
  create(flags: string[]): GPU;
}

/** Dawn wants one instance a process, and crashes if it is collected while a device of it lives. */
let dawn: { readonly gpu: GPU; readonly flags: string } | undefined;

/** Not a literal: a bundler for browsers must not look for it. */
const DAWN = "webgpu";

export type GpuFound = { readonly gpu: GPU; readonly reason?: undefined } | { readonly reason: string };

/** @param flags Dawn's, such as "enable-dawn-features=allow_unsafe_apis"; the first that ask in a process decide */
export async function findGpu(flags: readonly string[]): Promise<GpuFound> {
  const { navigator } = globalThis as { navigator?: { gpu?: GPU } };
  if (navigator?.gpu) return { gpu: navigator.gpu };
  const { process } = globalThis as { process?: { versions?: { node?: string } } };
  if (!process?.versions?.node) {
    const { isSecureContext } = globalThis as { isSecureContext?: boolean };
    return {
      reason:
        isSecureContext === false
          ? "navigator.gpu is only there in secure contexts: serve the page by https or from localhost"
          : "this browser has no navigator.gpu",
    };
  }
  const wanted = flags.join(" ");
  if (dawn) {
    if (dawn.flags === wanted) return { gpu: dawn.gpu };
    return { reason: `Dawn runs once a process, here with the flags "${dawn.flags}" and not "${wanted}"` };
  }
  try {
    const module = (await import(/* @vite-ignore */ /* webpackIgnore: true */ DAWN)) as Dawn;
    dawn = { gpu: module.create([...flags]), flags: wanted };
    return { gpu: dawn.gpu };
  } catch (error) {
    const { code, message } = error as { code?: string; message?: string };
    if (code === "ERR_MODULE_NOT_FOUND") return { reason: "Node has no WebGPU of its own: npm install webgpu" };
    return { reason: `the package webgpu failed to load: ${message?.split("\n")[0] ?? String(error)}` };
  }
}

/** Whether this platform's WGSL has a language feature. */
export function knowsWgsl(feature: string): boolean {
  const { navigator } = globalThis as { navigator?: { gpu?: GPU } };
  return (navigator?.gpu ?? dawn?.gpu)?.wgslLanguageFeatures?.has(feature) ?? false;
}
