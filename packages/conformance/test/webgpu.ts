import { webgpu, type WebgpuOptions } from "@fa/backend-webgpu";
import { describe, it } from "vitest";
import { SOFTWARE, useDriver } from "../../../tools/software-gpu.ts";
import { conformanceChecks, type ConformanceOptions } from "../src/runner.ts";
import { describeConformance } from "./suite.ts";

/** Compiling a kernel takes a software adapter seconds, lavapipe half a minute. */
const TIMEOUT_MS = 600_000;

/** Capabilities whose checks repeat others in another type. */
export const HALF_TYPES = ["float16", "bfloat16"];

/** All capabilities but some. */
export async function otherThan(capabilities: readonly string[]): Promise<string[]> {
  const all = new Set((await conformanceChecks()).map(({ capability }) => capability));
  return [...all].filter((capability) => !capabilities.includes(capability));
}

interface Lane extends ConformanceOptions {
  readonly driver: Parameters<typeof useDriver>[0];
  readonly subgroup?: 4 | 8 | 16;
  readonly tier?: WebgpuOptions["tier"];
}

/** Checks on a software adapter, or their absence by name. A file has one driver. */
export async function describeWebgpu(title: string, { driver, subgroup, tier, ...options }: Lane): Promise<void> {
  const found = useDriver(driver, { subgroup });
  if (found.here) {
    await describeConformance(title, webgpu({ ...SOFTWARE, tier }), { runs: 4, timeoutMs: TIMEOUT_MS, ...options });
  } else {
    describe(title, () => {
      it.skip(found.why, () => {});
    });
  }
}
