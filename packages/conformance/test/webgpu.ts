import { KERNELS, webgpu, type Tuning, type WebgpuOptions } from "@fa/backend-webgpu";
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
  /** As if every problem were large, in float32: problems of checks are not. */
  readonly largeTiles?: boolean;
}

/** A tuning that puts the rows for problems of any size before those for small ones. */
async function forLargeTiles(): Promise<Tuning> {
  const rows = KERNELS.filter(({ op, maxRows, needs }) => op === "attention" && !maxRows && needs.length === 0);
  const [small] = rows;
  const large = rows.filter(({ maxTotalRows }) => maxTotalRows === undefined);
  const choices = large.map(({ id, headDim }) => ({
    kernel: id,
    dtype: "float32" as const,
    headDim: headDim!,
    ms: { [small.id]: 2, [id]: 1 },
  }));
  const { device } = await webgpu(SOFTWARE).probe();
  return { device: device!, choices };
}

/** Checks on a software adapter, or their absence by name. A file has one driver. */
export async function describeWebgpu(
  title: string,
  { driver, subgroup, tier, largeTiles, ...options }: Lane,
): Promise<void> {
  const found = useDriver(driver, { subgroup });
  if (found.here) {
    const tuning = largeTiles ? await forLargeTiles() : undefined;
    await describeConformance(title, webgpu({ ...SOFTWARE, tier, tuning }), {
      runs: 4,
      timeoutMs: TIMEOUT_MS,
      ...options,
    });
  } else {
    describe(title, () => {
      it.skip(found.why, () => {});
    });
  }
}
