// Greedy suppression without a word from the host.
//
// Boxes are ranked by counting those before them. Then, for some thousand of
// them at a time, many blocks compare these rows with all later boxes, which
// gives a bit for each pair, and one block for each group goes through the
// rows: who is not yet removed is chosen and removes what its bits say. So
// memory grows with the boxes, not with their square. Once enough are chosen,
// the launches that are left do nothing.

#include <cstdint>

#include "core/boxes.h"
#include "core/sizes.h"
#include "cuda/device.h"
#include "cuda/work.h"
#include "ops/nms/call.h"
#include "ops/nms/cuda.h"
#include "ops/nms/cuda_overlap.h"
#include "ops/nms/cuda_tuning.h"

namespace jax_roipool::cuda {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

struct NmsArguments {
  NmsCall call;
  NmsWorkspace workspace;  // of the first group
  int64_t words;
  int64_t items;
  int64_t row_begin, row_end;  // not of RankBoxes
};

// A group's arrays.
struct NmsGroup {
  const float* corners;
  const int32_t *keys, *classes;
  float threshold;
  int32_t *indices, *order, *removed, *mask, *chosen;

  __device__ NmsGroup(const NmsArguments& a, int64_t group)
      : corners(a.call.corners + 4 * group * a.call.boxes),
        keys(a.call.keys + group * a.call.boxes),
        classes(a.call.classes + group * a.call.boxes),
        threshold(a.call.thresholds[group]),
        indices(a.call.indices + group * a.call.outputs),
        order(a.workspace.order + group * a.call.boxes),
        removed(a.workspace.removed + group * a.words),
        mask(a.workspace.mask + group * a.words * a.workspace.rows),
        chosen(a.workspace.chosen + group) {}
};

// Of a group without boxes one too, which says that none is chosen.
JAX_ROIPOOL_HOST_DEVICE inline int64_t RankParts(const NmsCall& call) {
  return call.boxes == 0 ? 1 : CeilDiv(call.boxes, kThreads);
}

// item = (group, kThreads boxes of it).
__global__ void __launch_bounds__(kThreads) RankBoxes(const NmsArguments a) {
  const int64_t parts = RankParts(a.call);
  auto* keys = reinterpret_cast<int32_t*>(SharedMemory());
  TakeTurns(a.items, [&](int64_t item) {
    const Division of = Divide(item, parts);
    const NmsGroup group(a, of.quotient);
    const int64_t box = of.remainder * kThreads + threadIdx.x;
    const int32_t key = box < a.call.boxes ? group.keys[box] : 0;
    int64_t rank = 0;
    for (int64_t first = 0; first < a.call.boxes; first += kThreads) {
      const int64_t other = first + threadIdx.x;
      // What is none stands last.
      keys[threadIdx.x] =
          other < a.call.boxes ? group.keys[other] : kNeverChosen;
      __syncthreads();
      JAX_ROIPOOL_UNROLL(8)
      for (int i = 0; i < kThreads; ++i) {
        rank += keys[i] > key || (keys[i] == key && first + i < box);
      }
      __syncthreads();
    }
    if (box < a.call.boxes) group.order[rank] = static_cast<int32_t>(box);
    if (box < a.words) group.removed[box] = 0;
    if (box == 0) *group.chosen = 0;
  });
}

// What blocks have of the boxes that are their columns.
struct Columns {
  Box boxes[kColumns];
  int32_t classes[kColumns];
};

// item = (group, kThreads rows, kColumns columns).
__global__ void __launch_bounds__(kThreads) CompareBoxes(const NmsArguments a) {
  const int64_t row_parts = CeilDiv(a.row_end - a.row_begin, kThreads);
  const int64_t first_word = a.row_begin / kWarp;
  const int64_t column_parts = CeilDiv(a.words - first_word, kColumnWords);
  auto& columns = *reinterpret_cast<Columns*>(SharedMemory());
  TakeTurns(a.items, [&](int64_t item) {
    const Division parts = Divide(item, column_parts);
    const Division of = Divide(parts.quotient, row_parts);
    const NmsGroup group(a, of.quotient);
    const int64_t word = first_word + parts.remainder * kColumnWords;
    const int64_t row_part = a.row_begin + of.remainder * kThreads;
    if (*group.chosen >= a.call.outputs) return;
    if ((word + kColumnWords) * kWarp <= row_part) return;  // all earlier
    __syncthreads();  // until nobody has the last item's columns
    if (threadIdx.x < kColumns) {
      const int64_t column = word * kWarp + threadIdx.x;
      if (column < a.call.boxes) {
        const int32_t box = group.order[column];
        columns.boxes[threadIdx.x] = LoadBox(group.corners, box);
        columns.classes[threadIdx.x] = group.classes[box];
      }
    }
    __syncthreads();
    const int64_t row = row_part + threadIdx.x;
    if (row >= a.row_end) return;
    if ((static_cast<uint32_t>(group.removed[row / kWarp]) >> row % kWarp &
         1) != 0) {
      return;
    }
    const int32_t index = group.order[row];
    if (group.keys[index] == kNeverChosen) return;
    const Box box = LoadBox(group.corners, index);
    const int32_t class_ = group.classes[index];
    for (int64_t w = 0; w < kColumnWords && word + w < a.words; ++w) {
      const int64_t first = (word + w) * kWarp;
      if (first + kWarp <= row) continue;
      uint32_t bits = 0;
      for (int bit = 0; bit < kWarp; ++bit) {
        const int64_t place = w * kWarp + bit;
        if (first + bit > row && first + bit < a.call.boxes &&
            columns.classes[place] == class_ &&
            Suppresses(columns.boxes[place], box, a.call.inclusive,
                       group.threshold)) {
          bits |= uint32_t{1} << bit;
        }
      }
      group.mask[(word + w) * a.workspace.rows + row - a.row_begin] =
          static_cast<int32_t>(bits);
    }
  });
}

// item = group.
__global__ void __launch_bounds__(kThreads) ChooseRows(const NmsArguments a) {
  auto& shared = *reinterpret_cast<uint32_t*>(SharedMemory());
  const int lane = threadIdx.x % kWarp;
  TakeTurns(a.items, [&](int64_t item) {
    const NmsGroup group(a, item);
    int64_t chosen = *group.chosen;
    for (int64_t first = a.row_begin;
         first < a.row_end && chosen < a.call.outputs; first += kWarp) {
      // Those that may be chosen stand first.
      if (group.keys[group.order[first]] == kNeverChosen) break;
      const int64_t word = first / kWarp;
      const int32_t* mask = group.mask + first - a.row_begin;
      if (threadIdx.x < kWarp) {
        const int64_t row = first + lane;
        const uint32_t removed = group.removed[word];
        const bool alive = (removed >> lane & 1) == 0 && row < a.row_end &&
                           group.keys[group.order[row]] != kNeverChosen;
        const uint32_t mine = alive ? mask[word * a.workspace.rows + lane] : 0;
        uint32_t left = __ballot_sync(kAllLanes, alive);
        uint32_t kept = 0;
        int64_t count = chosen;
        for (int bit = 0; bit < kWarp; ++bit) {
          const uint32_t removes = __shfl_sync(kAllLanes, mine, bit);
          if ((left >> bit & 1) != 0 && count < a.call.outputs) {
            kept |= uint32_t{1} << bit;
            left &= ~removes;
            count += 1;
          }
        }
        if ((kept >> lane & 1) != 0) {
          const uint32_t before = kept & ((uint32_t{1} << lane) - 1);
          group.indices[chosen + __popc(before)] = group.order[row];
        }
        if (lane == 0) shared = kept;
      }
      __syncthreads();
      const uint32_t kept = shared;
      chosen += __popc(kept);
      for (int64_t w = word + 1 + threadIdx.x; w < a.words; w += kThreads) {
        uint32_t removed = group.removed[w];
        JAX_ROIPOOL_UNROLL(8)
        for (int bit = 0; bit < kWarp; ++bit) {
          if ((kept >> bit & 1) != 0) {
            removed |= mask[w * a.workspace.rows + bit];
          }
        }
        group.removed[w] = static_cast<int32_t>(removed);
      }
      __syncthreads();
    }
    __syncthreads();  // until all have read how many are chosen
    if (threadIdx.x == 0) *group.chosen = static_cast<int32_t>(chosen);
    if (a.row_end == a.call.boxes) {
      for (int64_t i = chosen + threadIdx.x; i < a.call.outputs;
           i += kThreads) {
        group.indices[i] = -1;
      }
    }
  });
}

}  // namespace

Status Nms(const NmsCall& call, const NmsWorkspace& workspace, Stream stream) {
  NmsArguments a{};
  a.call = call;
  a.workspace = workspace;
  a.words = NmsWords(call);
  a.items = call.groups * RankParts(call);
  Status status = Launch(RankBoxes, BlocksFor(a.items), kThreads,
                         kThreads * sizeof(int32_t), stream, a);
  // Once at least, as somebody must say that there is nothing.
  do {
    a.row_end = call.boxes;
    if (a.row_end - a.row_begin > workspace.rows) {
      a.row_end = a.row_begin + workspace.rows;
    }
    a.items = call.groups * CeilDiv(a.row_end - a.row_begin, kThreads) *
              CeilDiv(a.words - a.row_begin / kWarp, kColumnWords);
    if (status == kSuccess && a.items > 0) {
      status = Launch(CompareBoxes, BlocksFor(a.items), kThreads,
                      sizeof(Columns), stream, a);
    }
    a.items = call.groups;
    if (status == kSuccess) {
      status = Launch(ChooseRows, BlocksFor(a.items), kThreads,
                      sizeof(uint32_t), stream, a);
    }
    a.row_begin = a.row_end;
  } while (status == kSuccess && a.row_begin < call.boxes);
  return status;
}

}  // namespace jax_roipool::cuda
