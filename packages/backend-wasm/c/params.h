// What JavaScript tells the kernels. Every field is 4 bytes; src/abi.ts lists the same names in the same order, and a test
// compares the two. Strides and counts are in elements. Pointers to tensors are of one (batch, head): row 0, column 0.
#pragma once
#include "base.h"

#define MAX_HEAD_DIM 256

// The score program: what happens to q.k between the product and the probability. A step that is off is a 0 or a null.
typedef struct {
  f32 softcap;
  const void *bias;
  u32 biasDtype;
  u32 biasRowStride; // 0 repeats one row
  u32 biasKeyStride; // 0 or 1
  f32 slope;         // ALiBi
  i32 diagonal;      // Skv - Sq
  i32 bandLo;        // key j is inside the band of row i iff i + bandLo <= j <= i + bandHi
  i32 bandHi;
  const u8 *mask; // not 0: may attend
  u32 maskRowStride;
  u32 maskKeyStride;
  u32 dropout;       // 1: on
  u32 dropBelow;     // an element is dropped iff its 16-bit draw is below this
  f32 keepScale;     // 1 / (1 - p)
  u32 seedLow;
  u32 seedHigh;
  u32 dropoutOffset;
  u32 dropoutHead;   // b * H + h
} ScoreParams;

typedef struct {
  ScoreParams score;
  u32 Skv;
  u32 D;
  u32 Dv;
  u32 Br; // rows of a tile
  u32 Bc; // keys of a tile
  u32 blockRows; // of a register block: 4 or 6
  u32 dtype;
  u32 resultDtype;
  f32 scale;
  f32 sink; // -Infinity: none
  const void *q;
  const void *k;
  const void *v;
  void *out;
  f32 *lse;
  u32 qStride; // between rows
  u32 kStride;
  u32 vStride;
  u32 outStride;
  // Workspace, sizes in src/workspace.ts
  f32 *kColumns; // K^T: [kv tile][ceil(Bc / 8)][D][8]
  f32 *vPanels;  // [kv tile][ceil(Dv / 8)][Bc][8]
  u8 *vFinite;   // [kv tile]
  f32 *qRows;    // [Br][D8]
  f32 *scores;   // [Br][Bc8]
  f32 *scoresLow; // [Br][Bc8], of long scores
  f32 *acc;      // [Br][Dv8]
  f32 *rowMax;   // m [Br]
  f32 *rowTop;   // m' [Br]: m with the tile at hand
  f32 *rowSum;   // l [Br]
  f32 *rowScale; // alpha [Br]
  f32 *line;     // one row of keys
  // Of faDecode: the query heads that share the key head, and what is not the same for all of them
  u32 heads;
  u32 qHeadStride;
  u32 outHeadStride;
  u32 biasHeadStride;
  u32 maskHeadStride;
  f32 *slopes; // [heads]; null: none
  f32 *sinks;  // [heads]; null: none
  // This block of rows, and the keys that it sees: [keyBegin, keyEnd), of which every row sees [fullBegin, fullEnd)
  u32 rowBegin;
  u32 rowCount;
  u32 keyBegin;
  u32 fullBegin;
  u32 fullEnd;
  u32 keyEnd;
} ForwardParams;

typedef struct {
  ScoreParams score;
  u32 Skv;
  u32 D;
  u32 Dv;
  u32 Br;
  u32 Bc;
  u32 blockRows;
  u32 dtype;
  u32 resultDtype;
  f32 scale;
  f32 sink;
  const void *q;
  const void *k;
  const void *v;
  const void *out;
  const f32 *lse;
  const void *dout;
  void *dq;
  void *dk;
  void *dv;
  f64 *dsink; // sum over rows so far, of this head; null: none
  void *dbias; // of this (batch, head), float32 or float64; null: none
  u32 dbiasDouble; // 1: float64
  u32 dbiasRowStride;
  u32 dbiasKeyStride;
  u32 qStride;
  u32 kStride;
  u32 vStride;
  u32 outStride;
  // Workspace
  f32 *kColumns;  // K^T: [kv tile][ceil(Bc / 8)][D][8]
  f32 *vColumns;  // V^T: [kv tile][ceil(Bc / 8)][Dv][8]
  f32 *kPanels;   // [ceil(D / 8)][Skv][8]
  u8 *kFinite;    // [kv tile]
  f32 *dkAcc;     // [kv tile][Bc][D8]
  f32 *dvAcc;     // [kv tile][Bc][Dv8]
  u32 parts;      // how many of the two faBackwardFinish adds up, and how many elements one is after the other
  u32 dkPart;
  u32 dvPart;
  f32 *qRows;     // [Br][D8]
  f32 *qPanels;   // [ceil(D / 8)][Br][8]
  f32 *doutRows;  // [Br][Dv8]
  f32 *doutPanels; // [ceil(Dv / 8)][Br][8]
  f32 *outRows;   // [Br][Dv8]
  f32 *dqAcc;     // [Br][D8]
  f32 *probs;     // [Br][Bc8]: S, then P, then dropout(P)
  f32 *grads;     // [Br][Bc8]: dP, then dS
  f32 *probsLow;  // [Br][Bc8], of long scores
  f32 *capGrads;  // [Br][Bc8]: derivative of softcap
  f32 *rowLse;    // [Br]
  f32 *rowLseLow; // [Br]
  f64 *rowTotal;  // [Br], of long scores
  f32 *delta;     // [Br]
  f32 *line;      // one row of keys
  u32 rowBegin;
  u32 rowCount;
  u32 keyBegin;
  u32 fullBegin;
  u32 fullEnd;
  u32 keyEnd;
} BackwardParams;

// A matrix whose columns lie in several arrays, each [rows][width].
typedef struct {
  void *data;
  u32 width;
} Part;

typedef struct {
  u32 M;
  u32 N;
  u32 K;
  u32 Mc; // rows, columns and depth of a block
  u32 Nc;
  u32 Kc;
  u32 blockRows;
  u32 dtype;
  const void *x;      // [M][K]
  const void *weight; // [N][K]
  const void *bias;   // [N]; null: none
  const Part *y;      // y of linear, dy of its backward: [M][N] in parts
  u32 parts;
  void *dx;      // [M][K]
  void *dweight; // [N][K]
  void *dbias;   // [N]
  // Workspace
  f32 *aBlock; // [Mc][Kc] or [Kc][Mc]
  f32 *bBlock; // [Nc / 8][depth][8]
  f32 *cBlock; // [Mc][Nc]
  f32 *line;   // one row of y
  f64 *sums;   // [N]
  // The block of the result that this call computes
  u32 rowBegin;
  u32 rowEnd;
  u32 columnBegin;
  u32 columnEnd;
} LinearParams;
