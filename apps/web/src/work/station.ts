/** Back ends as the page opens them: WebGPU on a device of its own, so that it can be asked for its time. */
import { reference, type BackendProvider } from "@fa/core";
import { wasm } from "@fa/backend-wasm";
import { deviceDescriptor, webgpu } from "@fa/backend-webgpu";
import { gpuTimer, readRate, type Bandwidth, type DeviceTimer } from "@fa/bench";
import type { BackendId } from "./work.ts";

export interface Station {
  readonly provider: BackendProvider;
  /** Of the instance that was opened last, where it has a clock. */
  readonly timer: () => DeviceTimer | undefined;
  /** What its memory moves, where something measures it. */
  readonly bandwidth: () => Promise<Bandwidth | null>;
}

const STATIONS: Readonly<Record<BackendId, () => Station>> = {
  webgpu: () => onGpu({ software: false }),
  "webgpu-software": () => onGpu({ software: true }),
  wasm: () => onProcessor(wasm()),
  reference: () => onProcessor(reference()),
};

export function stationOf(backend: BackendId): Station {
  return STATIONS[backend]();
}

function onProcessor(provider: BackendProvider): Station {
  return { provider, timer: () => undefined, bandwidth: async () => null };
}

function onGpu({ software }: { readonly software: boolean }): Station {
  const found = webgpu({ software });
  let device: GPUDevice | undefined;
  let timer: DeviceTimer | undefined;
  return {
    provider: {
      ...found,
      async open() {
        const adapter = await adapterOf(software);
        // Where there is none, the back end says why.
        if (!adapter) return found.open();
        const own = (device = await adapter.requestDevice(deviceDescriptor(adapter, "subgroups")));
        timer = gpuTimer(own);
        const backend = await webgpu({ device: own }).open();
        const dispose = backend.dispose.bind(backend);
        backend.dispose = async () => {
          await dispose();
          own.destroy();
        };
        return backend;
      },
    },
    timer: () => timer,
    bandwidth: async () => (device ? readRate(device, timer, software) : null),
  };
}

async function adapterOf(software: boolean): Promise<GPUAdapter | null> {
  const { gpu } = navigator;
  const adapter = await gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (adapter || !software) return adapter ?? null;
  return gpu?.requestAdapter({ forceFallbackAdapter: true }) ?? null;
}
