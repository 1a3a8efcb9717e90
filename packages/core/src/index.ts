/**
 * `@fa/core`: exact attention by tiles, one interface, interchangeable back ends.
 * @module @fa/core
 */
export {
  createAttention,
  Attention,
  type AttentionGradients,
  type AttentionOptions,
  type AttentionResult,
  type CreateOptions,
  type LinearGradients,
} from "./attention.ts";
export { Tensor } from "./tensor.ts";
export {
  FaError,
  nearest,
  refuse,
  refuseBuffer,
  refuseDisposed,
  show,
  type Complaint,
  type FaErrorCode,
} from "./errors.ts";
export { reference, type ReferenceOptions } from "./reference/backend.ts";
export type { CandidateReport, Selection } from "./select.ts";
export type { SelectionStore } from "./remembered.ts";
export { measure, measuredProblem, type MeasuredProblem, type MeasureOptions, type Measurement } from "./measure.ts";

// For those who write back ends, planners' tests and benchmarks.
export type {
  Backend,
  BackendProvider,
  Bindings,
  Capabilities,
  DeviceBuffer,
  MemoryUse,
  ProbeResult,
  Roof,
} from "./backend.ts";
export {
  attentionBackwardProblem,
  attentionProblem,
  checkOptions,
  countFlops,
  linearProblem,
  lseShape,
  outShape,
  rowStrides,
  MAX_HEAD_DIM,
  type AttentionOptionsOf,
  type AttentionProblem,
  type AttentionSizes,
  type BlockSize,
  type CastProblem,
  type DropoutOptions,
  type Layout,
  type LinearProblem,
  type Op,
  type Problem,
  type RowStrides,
  type TensorSpec,
} from "./problem.ts";
export { clockGrainMs } from "./clock.ts";
export { Queue } from "./queue.ts";
export { describePlan, plan, refusalError, type KernelRow, type Plan, type Refusal, type Tile } from "./plan.ts";
export {
  bandOf,
  broadcast,
  inBand,
  keyRange,
  offsetIn,
  rowRange,
  tileInBand,
  tileVisibility,
  visiblePairs,
  EVERYTHING,
  type Band,
  type Broadcast,
  type TileVisibility,
  type VisibleRange,
} from "./mask.ts";
export {
  describeProgram,
  step,
  SCORE_STEPS,
  type ScoreProgram,
  type ScoreStep,
  type ScoreStepKind,
} from "./score-program.ts";
export {
  bytesPerElement,
  decode,
  encode,
  resultDType,
  roundTo,
  typedArray,
  DTYPES,
  FLOAT_DTYPES,
  type DType,
  type FloatDType,
  type TensorData,
} from "./dtype.ts";
export { dropoutMask, keepScale, keepThreshold, philox4x32, DROPOUT_ROUNDS, type DropoutKey } from "./philox.ts";
