/** `@fa/backend-webgpu`: attention on WebGPU, in browsers, in Node through Dawn, and on a caller's own device. */
import { checkOptions, FaError, refuse, show, type BackendProvider, type ProbeResult } from "@fa/core";
import { describeDevice, deviceDescriptor, FEATURES, isSoftware, nameOf, type Adapter, type Tier } from "./adapter.ts";
import { WebgpuBackend } from "./backend.ts";
import { Device } from "./device.ts";
import { findGpu } from "./gpu.ts";
import type { WebgpuRow } from "./kernels/row.ts";
import { KERNELS } from "./kernels/table.ts";
import { distrust } from "./trust.ts";
import { tune, tuned, type Tuning } from "./tune.ts";
import { VERSION } from "./version.ts";

export { KERNELS } from "./kernels/table.ts";
export type { WebgpuRow } from "./kernels/row.ts";
export { deviceDescriptor, FEATURES, type Tier } from "./adapter.ts";
export type { Choice, Tuning } from "./tune.ts";

export interface WebgpuOptions {
  /** A device of yours: tensors can then share `GPUBuffer`s with it, and it is never destroyed. Default: one of our own. */
  readonly device?: GPUDevice | undefined;
  /** Which GPU of several. Default "high-performance". */
  readonly powerPreference?: "low-power" | "high-performance" | undefined;
  /** Also take a software adapter, a CPU that plays a GPU. Default false: other back ends are faster. */
  readonly software?: boolean | undefined;
  /**
   * The most of a device that is used. `"portable"`: float32 kernels within the default limits, no feature. `"subgroups"`
   * (default): larger limits, subgroups and float16 where there are any. `"matrix"`: tensor cores besides, by an
   * experiment of browsers that has to be enabled there (`dawn` flags in Node); it is tested on a known answer first.
   */
  readonly tier?: Tier | undefined;
  /**
   * With `tier: "matrix"`, scores in float16 too: faster; lse errs by up to 2^-9 of itself, and rows with logits beyond 65504 are
   * NaN. Default false.
   */
  readonly float16Scores?: boolean | undefined;
  /** What `tuneWebgpu` found on this device, if other kernels than the table's first are faster here. */
  readonly tuning?: Tuning | undefined;
  /** Flags for Dawn, in Node. It runs once a process: the first instance decides. */
  readonly dawn?: readonly string[] | undefined;
}

/** What Dawn needs to offer subgroup matrices, and float16 on NVIDIA's driver for Linux: a developer's configuration. */
const MATRIX_DAWN = ["enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia"];

const TIERS: readonly Tier[] = ["portable", "subgroups", "matrix"];

/**
 * Kernels in WGSL on the GPU of the platform.
 * @throws FaError FA_OPTION
 */
export function webgpu(options: WebgpuOptions = {}): BackendProvider {
  checkOptions("webgpu", options, ["device", "powerPreference", "software", "tier", "float16Scores", "tuning", "dawn"]);
  const { device, powerPreference = "high-performance", software = false, tier = "subgroups" } = options;
  const { float16Scores = false, tuning, dawn = tier === "matrix" ? MATRIX_DAWN : [] } = options;
  if (!TIERS.includes(tier)) {
    refuse("FA_OPTION", {
      where: "webgpu(tier)",
      rule: `tier must be ${TIERS.map(show).join(", ")}`,
      got: show(tier),
      fix: `Leave it out for "subgroups".`,
    });
  }
  if (powerPreference !== "low-power" && powerPreference !== "high-performance") {
    refuse("FA_OPTION", {
      where: "webgpu(powerPreference)",
      rule: `powerPreference must be "low-power" or "high-performance"`,
      got: show(powerPreference),
      fix: `Leave it out for "high-performance".`,
    });
  }
  if (float16Scores && tier !== "matrix") {
    refuse("FA_OPTION", {
      where: "webgpu(float16Scores)",
      rule: `float16Scores goes with tier: "matrix"`,
      got: `tier ${show(tier)}`,
      fix: `Pass tier: "matrix".`,
    });
  }
  if (device !== undefined && typeof (device as Partial<GPUDevice> | null)?.createComputePipelineAsync !== "function") {
    refuse("FA_OPTION", {
      where: "webgpu(device)",
      rule: "device must be a GPUDevice",
      got: show(device),
      fix: "Pass what adapter.requestDevice() resolves to, or leave it out.",
    });
  }
  if (!Array.isArray(dawn) || dawn.some((flag) => typeof flag !== "string")) {
    refuse("FA_OPTION", {
      where: "webgpu(dawn)",
      rule: "dawn must be a list of flags",
      got: show(dawn),
      fix: `Pass ["enable-dawn-features=..."].`,
    });
  }
  if (tuning !== undefined && (typeof tuning?.device !== "string" || !Array.isArray(tuning.choices))) {
    refuse("FA_OPTION", {
      where: "webgpu(tuning)",
      rule: "tuning must be what tuneWebgpu resolved to",
      got: show(tuning),
      fix: "Make it anew on this device with tuneWebgpu().",
    });
  }

  /** The adapter that would be used, or why there is none. */
  async function findAdapter(): Promise<GPUAdapter | string> {
    const found = await findGpu(dawn);
    if (found.reason !== undefined) return found.reason;
    let adapter = await found.gpu.requestAdapter({ powerPreference });
    if (!adapter && software) adapter = await found.gpu.requestAdapter({ forceFallbackAdapter: true });
    if (!adapter) return "WebGPU is there, but no adapter: no GPU, or no driver for it, or it is blocked";
    if (!isSoftware(adapter) || software) return adapter;
    return `there is only a software adapter, ${nameOf(adapter.info)}: pass software: true to use it`;
  }

  /** The device by name, and what else its speed depends on; browsers tell neither driver nor version. */
  function described(info: Partial<GPUAdapterInfo>): Pick<ProbeResult, "device" | "identity"> {
    const { vendor, architecture, device: model, description } = info;
    const parts = [VERSION, `tier ${tier}`, float16Scores && "float16 scores", tuning && "tuned", ...dawn];
    return {
      device: nameOf(info),
      identity: [...parts, vendor, architecture, model, description].filter(Boolean).join(", "),
    };
  }

  return {
    name: "webgpu",
    async probe() {
      try {
        if (device) return { ok: true, ...described(device.adapterInfo ?? {}), reason: "on the device given" };
        const adapter = await findAdapter();
        if (typeof adapter === "string") return { ok: false, reason: adapter };
        return { ok: true, ...described(adapter.info), reason: `tier ${tier}` };
      } catch (error) {
        return { ok: false, reason: error instanceof Error ? error.message : String(error) };
      }
    },
    async open() {
      if (device)
        return trusted(
          new Device(device, false),
          describeDevice(device, device.adapterInfo ?? {}, tier, float16Scores),
        );
      const adapter = await findAdapter();
      if (typeof adapter === "string") {
        throw new FaError(
          "FA_UNAVAILABLE",
          `webgpu: a GPU must be there; got none: ${adapter}. Use another back end as well.`,
        );
      }
      const made = await adapter.requestDevice(deviceDescriptor(adapter, tier));
      return trusted(new Device(made, true), describeDevice(made, adapter.info, tier, float16Scores));
    },
  };

  /** A back end without the kernels that fail where the device is an experiment. */
  async function trusted(on: Device, adapter: Adapter): Promise<WebgpuBackend> {
    const { name, features } = adapter;
    const kernels = tuning?.device === name ? tuned(KERNELS, tuning) : KERNELS;
    const experiments = KERNELS.filter(({ needs }) => needs.includes(FEATURES.matrix));
    if (!features.includes(FEATURES.matrix)) return new WebgpuBackend(on, adapter, kernels);
    const trial = new WebgpuBackend(new Device(on.gpu, false), adapter, kernels);
    const reasons = new Map<WebgpuRow, string>();
    try {
      for (const row of experiments) {
        if (!row.needs.every((feature) => features.includes(feature))) continue;
        const reason = await distrust(trial, row);
        if (reason !== undefined) reasons.set(row, reason);
      }
    } finally {
      await trial.dispose();
    }
    if (reasons.size === 0) return new WebgpuBackend(on, adapter, kernels);
    const passed = kernels.filter(({ id }) => ![...reasons.keys()].some((row) => row.id === id));
    const but = [...reasons.values()].join("; ");
    return new WebgpuBackend(on, { ...adapter, name: `${name}, without kernels that fail on it: ${but}` }, passed);
  }
}

/**
 * Times the kernels of the back end on this device, verified against each other: some seconds on a GPU. Pass what it
 * resolves to to `webgpu({ tuning })`, now or, saved as JSON, another time.
 * @throws FaError FA_OPTION, FA_UNAVAILABLE
 */
export async function tuneWebgpu(options: WebgpuOptions = {}): Promise<Tuning> {
  const backend = await webgpu({ ...options, tuning: undefined }).open();
  try {
    return await tune(backend);
  } finally {
    await backend.dispose();
  }
}
