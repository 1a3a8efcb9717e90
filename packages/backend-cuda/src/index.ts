/** `@fa/backend-cuda`: attention on NVIDIA GPUs, in Node. */
import { checkOptions, FaError, refuse, show, type BackendProvider } from "@fa/core";
import type { Addon, Probed } from "./abi.ts";
import { loadAddon } from "./addon.node.ts";
import { CudaBackend } from "./backend.ts";
import { Device } from "./device.ts";
import { VERSION } from "./version.ts";

export type { CudaMemory } from "./backend.ts";
export { kernelTable, type CudaRow } from "./kernels.ts";

export interface CudaOptions {
  /** Which GPU of several, as CUDA counts them (CUDA_VISIBLE_DEVICES has a say). Default 0. */
  readonly device?: number | undefined;
  /**
   * Device memory that is kept when tensors are disposed, for the next, in bytes. Default 1 GiB. 0 keeps none, and gives each
   * tensor an allocation of its very size, which is what tools that look for accesses out of bounds need.
   */
  readonly poolBytes?: number | undefined;
  /** Begin results and workspaces as NaN, so that what a kernel leaves out shows. For tests. Default false. */
  readonly poison?: boolean | undefined;
  /** The addon to load, a path, instead of the one that is installed for the platform. */
  readonly addon?: string | undefined;
}

const POOL_BYTES = 2 ** 30;

/** The least compute capability that there are kernels for. */
const OLDEST = { major: 8, minor: 0 };

/**
 * Kernels in CUDA C++ on an NVIDIA GPU, from compute capability 8.0 (Ampere).
 * @throws FaError FA_OPTION
 */
export function cuda(options: CudaOptions = {}): BackendProvider {
  checkOptions("cuda", options, ["device", "poolBytes", "poison", "addon"]);
  const { device = 0, poolBytes = POOL_BYTES, poison = false, addon: path } = options;
  for (const [name, value] of [
    ["device", device],
    ["poolBytes", poolBytes],
  ] as const) {
    if (!Number.isSafeInteger(value) || value < 0) {
      refuse("FA_OPTION", {
        where: `cuda(${name})`,
        rule: `${name} must be an integer from 0`,
        got: show(value),
        fix: "Leave it out for the default.",
      });
    }
  }
  if (typeof poison !== "boolean") {
    refuse("FA_OPTION", {
      where: "cuda(poison)",
      rule: "poison must be true or false",
      got: show(poison),
      fix: "Leave it out for false.",
    });
  }
  if (path !== undefined && typeof path !== "string") {
    refuse("FA_OPTION", {
      where: "cuda(addon)",
      rule: "addon must be the path of an addon",
      got: show(path),
      fix: "Leave it out for the one that is installed.",
    });
  }

  /** The device, or why it cannot be used. */
  function find(): { addon: Addon; probed: Probed } | string {
    const { addon, reason } = loadAddon(path);
    if (!addon) return reason;
    const probed = addon.probe(device);
    return whyNot(probed, device) ?? { addon, probed };
  }

  return {
    name: "cuda",
    async probe() {
      const found = find();
      if (typeof found === "string") return { ok: false, reason: found };
      const { name, driver } = found.probed;
      return { ok: true, device: name, identity: `${VERSION}, driver of CUDA ${versionOf(driver)}` };
    },
    async open() {
      const found = find();
      if (typeof found === "string") {
        throw new FaError(
          "FA_UNAVAILABLE",
          `cuda: a GPU must be there; got none: ${found}. Use another back end as well.`,
        );
      }
      return new CudaBackend(new Device(found.addon, device), found.probed, { poolBytes, poison });
    },
  };
}

function whyNot({ driver, runtime, devices, major, minor, name, error }: Probed, device: number): string | undefined {
  if (driver === 0) {
    return "no NVIDIA driver: install one, and in a container run with --gpus all (NVIDIA Container Toolkit)";
  }
  if (Math.floor(driver / 1000) < Math.floor(runtime / 1000)) {
    return `the NVIDIA driver is too old: it knows CUDA ${versionOf(driver)}, needed is ${versionOf(runtime)}; install driver 580 or newer`;
  }
  if (error) return `CUDA does not answer: ${error}`;
  if (devices === 0) return "the NVIDIA driver shows no device: see nvidia-smi and CUDA_VISIBLE_DEVICES";
  if (device >= devices) return `there is no device ${device}: there are ${devices}, counted from 0`;
  if (major < OLDEST.major) {
    return `${name} has compute capability ${major}.${minor}, needed is ${OLDEST.major}.${OLDEST.minor} (Ampere) or newer`;
  }
  return undefined;
}

function versionOf(number: number): string {
  return `${Math.floor(number / 1000)}.${Math.floor((number % 1000) / 10)}`;
}
