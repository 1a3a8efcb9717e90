/** Back ends as the commands ask for them: opened, with what tells their time and what measures their memory. */
import { createAttention, FaError, type Attention, type BackendProvider, type CandidateReport } from "@fa/core";
import { installedBackends } from "@fa/core/auto";
import { deviceDescriptor, webgpu, type Tier } from "@fa/backend-webgpu";
import { availableParallelism } from "node:os";
import type { DeviceTimer } from "./bench.ts";
import { attentionCase } from "./cases.ts";
import { gpuTimer } from "./gpu-timer.ts";
import { quantile } from "./numbers.ts";
import { EXACT_TIMESTAMPS, MATRIX_FLAGS, openAdapter, SOFTWARE_FLAGS, useDawn } from "./peers/dawn.node.ts";
import { matrixRate } from "./peers/gpu-gauge.node.ts";
import { Remote } from "./peers/remote.node.ts";
import { readRate } from "./read-rate.ts";
import type { BackendFacts, Bandwidth, RunFile } from "./results.ts";

/** Which back ends, and how much of a GPU. */
export interface BackendChoice {
  /** By name; all that are installed unless given. */
  readonly backends?: readonly string[] | undefined;
  /** Whether WebGPU may be played by the processor. */
  readonly software?: boolean | undefined;
  readonly tier?: Tier | undefined;
}

/** One back end, ready to be opened for each case. */
export interface Station {
  readonly open: () => Promise<Attention>;
  readonly deviceTimer?: ((fa: Attention) => DeviceTimer | undefined) | undefined;
  /** What its memory moves, where something measures it. */
  readonly bandwidth?: ((fa: Attention) => Promise<Bandwidth | null>) | undefined;
  readonly matrixRoof?: ((fa: Attention) => Promise<RunFile["matrixRoof"]>) | undefined;
  readonly identity?: (() => Promise<string | undefined>) | undefined;
}

/** What there is, and what it can do at best. */
export interface FirstLook extends Pick<RunFile, "roof" | "matrixRoof" | "bandwidth"> {
  readonly report: readonly CandidateReport[];
  readonly backend: BackendFacts;
}

export async function firstLook({ open, bandwidth, matrixRoof, identity }: Station): Promise<FirstLook> {
  await using fa = await open();
  const { name, device } = fa.backend;
  return {
    report: fa.report,
    roof: await fa.roof(),
    matrixRoof: await matrixRoof?.(fa),
    bandwidth: (await bandwidth?.(fa)) ?? null,
    backend: { name, device, identity: await identity?.() },
  };
}

/**
 * The best of what was measured before and after the cases: another job may have had the machine during one of them. A back end
 * that does not open any more leaves what was measured before.
 */
export async function lookAgain(first: FirstLook, station: Station): Promise<FirstLook> {
  try {
    const { roof, matrixRoof, bandwidth } = await firstLook(station);
    return {
      ...first,
      roof: roof.gflops > first.roof.gflops ? roof : first.roof,
      matrixRoof:
        matrixRoof && first.matrixRoof && matrixRoof.gflops > first.matrixRoof.gflops ? matrixRoof : first.matrixRoof,
      bandwidth: bandwidth && first.bandwidth && bandwidth.gbs > first.bandwidth.gbs ? bandwidth : first.bandwidth,
    };
  } catch (error) {
    if (error instanceof FaError) return first;
    throw error;
  }
}

/** Those that are installed, or named; WebGPU on a device of ours, so that it can be asked for its time. */
export function providersOf({ backends: names, software = false, tier }: BackendChoice): OwnProvider[] {
  const providers = installedBackends({ names, import: (specifier) => import(specifier) });
  return providers.map((provider) => (provider.name === "webgpu" ? ownWebgpu({ software, tier }) : provider));
}

interface OwnProvider extends BackendProvider {
  /** The device that was opened last. */
  readonly device?: () => GPUDevice;
}

function ownWebgpu({ software, tier }: { readonly software: boolean; readonly tier: Tier | undefined }): OwnProvider {
  const options = { software, ...(tier && { tier }) };
  const flags = [EXACT_TIMESTAMPS, ...(tier === "matrix" ? MATRIX_FLAGS : []), ...(software ? SOFTWARE_FLAGS : [])];
  let device: GPUDevice;
  return {
    name: "webgpu",
    device: () => device,
    async probe() {
      // Where that fails, the back end knows best how to say why.
      await useDawn(flags).catch(() => undefined);
      return webgpu(options).probe();
    },
    async open() {
      const adapter = await openAdapter(flags, software);
      const own = (device = await adapter.requestDevice(deviceDescriptor(adapter, tier ?? "subgroups")));
      const backend = await webgpu({ ...options, device }).open();
      const dispose = backend.dispose.bind(backend);
      backend.dispose = async () => {
        await dispose();
        own.destroy();
      };
      return backend;
    },
  };
}

/** Of timestamps that Dawn does not round; GPUs count in steps of up to a microsecond. */
const EXACT_GRAIN_MS = 0.01;

/** The first of the back ends that works, and from then on the same. */
export function stationOf(choice: BackendChoice): Station {
  let providers = providersOf(choice);
  const timers = new WeakMap<Attention, DeviceTimer>();
  const taken = (): OwnProvider => providers[0];
  return {
    async open() {
      const fa = await createAttention({ backends: providers });
      providers = providers.filter(({ name }) => name === fa.backend.name);
      const device = taken().device?.();
      const timer = device && gpuTimer(device, choice.software ? undefined : EXACT_GRAIN_MS);
      if (timer) timers.set(fa, timer);
      return fa;
    },
    deviceTimer: (fa) => timers.get(fa),
    async bandwidth(fa) {
      const device = taken().device?.();
      if (device) return readRate(device, timers.get(fa), choice.software ?? false);
      return BANDWIDTHS[fa.backend.name]?.(fa) ?? null;
    },
    async matrixRoof(fa) {
      const device = taken().device?.();
      if (!device || !fa.backend.capabilities.features.includes("subgroup-matrix")) return undefined;
      return { gflops: await matrixRate(device), what: "register-only subgroup matrices, float16" };
    },
    identity: async () => (await taken().probe()).identity,
  };
}

/** The most threads that the wasm back end has by default. */
const MOST_THREADS = 16;

const BANDWIDTHS: Readonly<Record<string, (fa: Attention) => Promise<Bandwidth>>> = {
  wasm: () => processorBandwidth(Math.min(availableParallelism(), MOST_THREADS)),
  reference: () => processorBandwidth(1),
  cuda: castBandwidth,
};

/** Keys and values of so many bytes together are read over and over: more than caches hold. */
const READ_MIB = 128;
const ROUNDS = 5;

/** A process each thread, all at once. */
async function processorBandwidth(threads: number): Promise<Bandwidth> {
  const q = [1, 1, 1, 64];
  const kv = [1, 1, READ_MIB * 2 ** 11, 64];
  const item = attentionCase({ group: "run", name: "read", title: "read", q, kv });
  const remotes = Array.from({ length: threads }, () => new Remote());
  const readAll = async (): Promise<number> => {
    const rates = await Promise.all(remotes.map((remote) => remote.ask("gauge", { name: "read", item })));
    return rates.reduce((sum, rate) => sum + rate, 0);
  };
  try {
    await readAll();
    const rates: number[] = [];
    while (rates.length < ROUNDS) rates.push(await readAll());
    const gbs =
      quantile(
        rates.toSorted((a, b) => a - b),
        0.5,
      ) / 1e9;
    const many = threads === 1 ? "one thread" : `${threads} threads`;
    return { gbs, what: `reading ${READ_MIB} MiB a thread over and over, ${many}` };
  } finally {
    await Promise.all(remotes.map((remote) => remote.close()));
  }
}

const CAST_ELEMENTS = 64 * 2 ** 20;

/** For back ends with nothing better: what casting float32 to float16 reads and writes. */
async function castBandwidth(fa: Attention): Promise<Bandwidth> {
  const x = fa.empty({ shape: [CAST_ELEMENTS] });
  let ms = Infinity;
  for (let round = 0; round <= ROUNDS; round++) {
    await fa.sync();
    const start = performance.now();
    for (let n = 0; n < 10; n++) (await fa.cast(x, "float16")).dispose();
    await fa.sync();
    // The first compiles and warms.
    if (round > 0) ms = Math.min(ms, (performance.now() - start) / 10);
  }
  x.dispose();
  return { gbs: (6 * CAST_ELEMENTS) / ms / 1e6, what: "casting 256 MiB of float32 to float16, read and written" };
}
