import { knowsWgsl } from "./gpu.ts";
import type { DeviceLimits } from "./kernels/row.ts";

/** How much of a device is used. */
export type Tier = "portable" | "subgroups" | "matrix";

/** What kernel rows may need, as `capabilities.features` names it. */
export const FEATURES = {
  subgroups: "subgroups",
  /** Subgroups of at least 4 lanes, and WGSL in which they have numbers. */
  subgroupIds: "subgroup-id",
  float16: "shader-f16",
  matrix: "subgroup-matrix",
  float16Scores: "float16-scores",
} as const;

/** Subgroup matrices by the name that browsers and Dawn give them while they are an experiment. */
const MATRIX_FEATURE = "chromium-experimental-subgroup-matrix";

/** Features that each tier asks the device for, where the adapter has them. */
const WANTED: Readonly<Record<Tier, readonly string[]>> = {
  portable: [],
  subgroups: ["subgroups", "shader-f16", "timestamp-query"],
  matrix: ["subgroups", "shader-f16", "timestamp-query", MATRIX_FEATURE],
};

/** Limits that are raised to the adapter's own in every tier but the portable one. */
const RAISED_LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxStorageBuffersPerShaderStage",
] as const;

/** What the rest of the back end knows of a device. */
export interface Adapter {
  /** In the words of its maker. */
  readonly name: string;
  /** Those of FEATURES that it has. */
  readonly features: readonly string[];
  readonly limits: DeviceLimits;
}

type Info = Partial<GPUAdapterInfo> & {
  readonly subgroupMatrixConfigs?: Iterable<{
    readonly componentType: string;
    readonly resultComponentType: string;
    readonly M: number;
    readonly N: number;
    readonly K: number;
  }>;
};

/** A CPU that plays a GPU. */
export function isSoftware(adapter: GPUAdapter): boolean {
  const info: Info = adapter.info;
  const old = (adapter as { isFallbackAdapter?: boolean }).isFallbackAdapter;
  const names = `${info.vendor} ${info.architecture} ${info.device} ${info.description}`;
  return info.isFallbackAdapter === true || old === true || /swiftshader|llvmpipe|lavapipe|software|warp/i.test(names);
}

export function nameOf(info: Info): string {
  const { description, device, architecture, vendor } = info;
  return description || device || [vendor, architecture].filter(Boolean).join(" ") || "a WebGPU device";
}

/** What to ask an adapter for, so that a device of yours reaches a tier: `webgpu({ device, tier })`. */
export function deviceDescriptor(adapter: GPUAdapter, tier: Tier): GPUDeviceDescriptor {
  const requiredFeatures = WANTED[tier].filter((feature) => adapter.features.has(feature)) as GPUFeatureName[];
  if (tier === "portable") return { requiredFeatures };
  return {
    requiredFeatures,
    requiredLimits: Object.fromEntries(RAISED_LIMITS.map((limit) => [limit, adapter.limits[limit]])),
  };
}

/** @param device one of that tier; a caller's may have been made with more or less */
export function describeDevice(device: GPUDevice, info: Info, tier: Tier, float16Scores: boolean): Adapter {
  const has = (feature: string): boolean => WANTED[tier].includes(feature) && device.features.has(feature);
  const { subgroupMinSize = 0, subgroupMaxSize = 0 } = has("subgroups") ? info : {};
  const features: string[] = [];
  if (has("subgroups")) features.push(FEATURES.subgroups);
  if (subgroupMinSize >= 4 && knowsWgsl("subgroup_id")) features.push(FEATURES.subgroupIds);
  if (has("shader-f16")) features.push(FEATURES.float16);
  if (has("shader-f16") && has("subgroups") && has(MATRIX_FEATURE) && multipliesHalves(info)) {
    features.push(FEATURES.matrix);
    if (float16Scores) features.push(FEATURES.float16Scores);
  }
  const {
    maxComputeWorkgroupStorageSize,
    maxComputeInvocationsPerWorkgroup,
    maxStorageBufferBindingSize,
    maxStorageBuffersPerShaderStage,
    minStorageBufferOffsetAlignment,
  } = device.limits;
  return {
    name: nameOf(info),
    features,
    limits: {
      maxComputeWorkgroupStorageSize,
      maxComputeInvocationsPerWorkgroup,
      maxStorageBufferBindingSize,
      maxStorageBuffersPerShaderStage,
      minStorageBufferOffsetAlignment,
      subgroupMinSize,
      subgroupMaxSize,
    },
  };
}

/**
 * Whether a device has the matrices that the kernels are written for: 16 x 16 x 16, float16 in, float32 out, 32 lanes. Dawn
 * lists them on the adapter only: where a caller's device has no list, trying the kernels has to tell.
 */
function multipliesHalves({ subgroupMatrixConfigs = [], subgroupMinSize, subgroupMaxSize }: Info): boolean {
  const configs = [...subgroupMatrixConfigs];
  if (subgroupMinSize !== 32 || subgroupMaxSize !== 32) return false;
  return (
    configs.length === 0 ||
    configs.some(
      ({ componentType, resultComponentType, M, N, K }) =>
        componentType === "f16" && resultComponentType === "f32" && M === 16 && N === 16 && K === 16,
    )
  );
}
