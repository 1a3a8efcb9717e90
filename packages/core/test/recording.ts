import type { Backend, BackendProvider, DeviceBuffer } from "../src/backend.ts";

/** What a back end was asked to do, counted. */
export interface Recording {
  probes: number;
  opens: number;
  allocations: number;
  runs: number;
  reads: number;
  frees: number;
  disposals: number;
  /** Buffers allocated and not freed. */
  readonly live: Set<DeviceBuffer>;
}

export function newRecording(): Recording {
  return { probes: 0, opens: 0, allocations: 0, runs: 0, reads: 0, frees: 0, disposals: 0, live: new Set() };
}

/** A provider that counts what it is asked and passes it on. `change` replaces methods of the open back end. */
export function recording(
  provider: BackendProvider,
  record: Recording,
  change: (backend: Backend) => Partial<Backend> = () => ({}),
): BackendProvider {
  return {
    name: provider.name,
    async probe() {
      record.probes++;
      return provider.probe();
    },
    async open() {
      record.opens++;
      const inner = await provider.open();
      const backend: Backend = {
        name: inner.name,
        device: inner.device,
        capabilities: inner.capabilities,
        kernels: inner.kernels,
        allocate(bytes, contents) {
          const buffer = inner.allocate(bytes, contents);
          record.allocations++;
          record.live.add(buffer);
          return buffer;
        },
        read(buffer) {
          record.reads++;
          return inner.read(buffer);
        },
        free(buffer) {
          record.frees++;
          record.live.delete(buffer);
          inner.free(buffer);
        },
        run(plan, bindings) {
          record.runs++;
          return inner.run(plan, bindings);
        },
        sync: () => inner.sync(),
        memory: () => inner.memory(),
        roof: () => inner.roof(),
        async dispose() {
          record.disposals++;
          await inner.dispose();
        },
      };
      return { ...backend, ...change(backend) };
    },
  };
}
