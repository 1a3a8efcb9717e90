/** What this browser can do that attention can use, in plain words: what is missing, and how to get it. */
import { clockGrainMs } from "@fa/core";
import { supportedVariant } from "@fa/backend-wasm";

export interface Ability {
  readonly title: string;
  readonly state: "yes" | "partly" | "no";
  /** What is there, or what is missing and what follows. */
  readonly what: string;
  /** How to get it. */
  readonly fix?: string | undefined;
}

export interface Gpu {
  readonly name: string;
  readonly features: readonly { readonly name: string; readonly there: boolean; readonly what: string }[];
  /** `least` is what every WebGPU adapter gives. */
  readonly limits: readonly { readonly name: string; readonly value: number; readonly least: number }[];
}

export interface Abilities {
  readonly list: readonly Ability[];
  readonly gpu: Gpu | undefined;
}

/** What is looked at: the global scope of a page or worker, or what a test puts in its place. */
export interface Scope {
  readonly navigator?: {
    readonly gpu?: Pick<GPU, "requestAdapter"> | undefined;
    readonly hardwareConcurrency?: number | undefined;
  };
  readonly isSecureContext?: boolean | undefined;
  readonly crossOriginIsolated?: boolean | undefined;
  readonly SharedArrayBuffer?: unknown;
  readonly Float16Array?: unknown;
}

/** Features that kernels use, and what for. */
const FEATURES: Readonly<Record<string, string>> = {
  subgroups: "lanes that see each other's values: sums and maxima without shared memory",
  "shader-f16": "arithmetic in float16",
  "timestamp-query": "times taken by the GPU itself",
  "chromium-experimental-subgroup-matrix": "tensor cores, an experiment of Chromium",
};

/** Limits that decide what fits, and what the specification promises of each. */
const LIMITS = {
  maxBufferSize: 2 ** 28,
  maxStorageBufferBindingSize: 2 ** 27,
  maxComputeWorkgroupStorageSize: 2 ** 14,
  maxComputeInvocationsPerWorkgroup: 256,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupsPerDimension: 65535,
} as const;

/** @param isSoftware whether a software adapter is all the WebGPU there is */
export async function lookAround(
  { isSoftware }: { readonly isSoftware: boolean },
  scope: Scope = globalThis,
): Promise<Abilities> {
  const adapter = await adapterOf(scope, isSoftware);
  const gpu = adapter && describe(adapter);
  return { list: [webgpuIn(scope, gpu, isSoftware), threadsIn(scope), simd(), float16In(scope), clock()], gpu };
}

async function adapterOf({ navigator }: Scope, isSoftware: boolean): Promise<GPUAdapter | undefined> {
  try {
    const adapter = await navigator?.gpu?.requestAdapter({ powerPreference: "high-performance" });
    if (adapter || !isSoftware) return adapter ?? undefined;
    return (await navigator?.gpu?.requestAdapter({ forceFallbackAdapter: true })) ?? undefined;
  } catch {
    return undefined;
  }
}

function describe({ info, features, limits }: GPUAdapter): Gpu {
  const { vendor, architecture, device, description } = info;
  return {
    name: description || device || [vendor, architecture].filter(Boolean).join(" ") || "an adapter that tells no name",
    features: Object.entries(FEATURES).map(([name, what]) => ({ name, there: features.has(name), what })),
    limits: (Object.keys(LIMITS) as (keyof typeof LIMITS)[]).map((name) => ({
      name,
      value: limits[name],
      least: LIMITS[name],
    })),
  };
}

const GPU_FIX =
  "Turn on graphics acceleration in the browser's settings and update the driver. chrome://gpu or about:support tells more.";

function webgpuIn({ navigator, isSecureContext }: Scope, gpu: Gpu | undefined, isSoftware: boolean): Ability {
  const title = "WebGPU";
  if (gpu && isSoftware) {
    return {
      title,
      state: "partly",
      what: `Only a software adapter, ${gpu.name}: a processor that plays a GPU. It computes right, and slower than WebAssembly.`,
      fix: GPU_FIX,
    };
  }
  if (gpu) return { title, state: "yes", what: gpu.name };
  if (navigator?.gpu) {
    return {
      title,
      state: "no",
      what: "The browser knows WebGPU, but gives no adapter: there is no GPU, or its driver is missing, old or blocked.",
      fix: GPU_FIX,
    };
  }
  return isSecureContext === false
    ? {
        title,
        state: "no",
        what: "WebGPU is only there in secure contexts, and this page is not in one.",
        fix: "Open it by https, or from localhost on the same machine.",
      }
    : {
        title,
        state: "no",
        what: "This browser has no WebGPU. WebAssembly takes its place.",
        fix: "Use a current Chrome, Edge, Safari or Firefox. In Chromium on Linux it may have to be allowed: chrome://flags/#enable-unsafe-webgpu.",
      };
}

function threadsIn({ crossOriginIsolated, SharedArrayBuffer, navigator }: Scope): Ability {
  const title = "Threads";
  const cores = navigator?.hardwareConcurrency ?? 1;
  if (crossOriginIsolated && SharedArrayBuffer) {
    if (cores > 1)
      return { title, state: "yes", what: `The page is cross-origin isolated; the browser tells of ${cores} cores.` };
    return { title, state: "partly", what: "The page is cross-origin isolated, but the browser tells of one core." };
  }
  return {
    title,
    state: "no",
    what: "The page is not cross-origin isolated, so WebAssembly computes on one thread.",
    fix: "The server has to send Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp. npm run web does.",
  };
}

function simd(): Ability {
  const title = "WebAssembly SIMD";
  try {
    if (supportedVariant() === "relaxed") {
      return { title, state: "yes", what: "Relaxed SIMD: products and sums in one instruction." };
    }
    return {
      title,
      state: "partly",
      what: "Plain SIMD; relaxed SIMD, which is faster, is missing.",
      fix: "Chrome and Edge have it from 114. In Firefox and Safari a current or a preview version may.",
    };
  } catch {
    return {
      title,
      state: "no",
      what: "There is no SIMD in WebAssembly: only the reference back end runs.",
      fix: "Use a browser of 2023 or later.",
    };
  }
}

function float16In({ Float16Array }: Scope): Ability {
  const title = "Float16Array";
  if (Float16Array) return { title, state: "yes", what: "float16 tensors can be made from and read as Float16Array." };
  return {
    title,
    state: "no",
    what: "float16 tensors work all the same, as raw bits in a Uint16Array.",
    fix: "Chrome and Edge have it from 135, Firefox from 129, Safari from 18.2.",
  };
}

function clock(): Ability {
  const grain = clockGrainMs();
  const coarse = grain > 0.05;
  return {
    title: "Clock",
    state: coarse ? "partly" : "yes",
    what: `It steps by ${Number((grain * 1000).toPrecision(2))} µs${coarse ? ": short calls are timed many at a time" : ""}.`,
    fix: coarse ? "Cross-origin isolation makes it finer in most browsers." : undefined,
  };
}
