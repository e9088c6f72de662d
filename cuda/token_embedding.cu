// The text tower's way in: rows of the vocabulary table plus positions, captions end to end.
#include "cuda/column_sums.cuh"
#include "cuda/cuda_backend.h"

namespace clip {
namespace {

/// One block for each caption.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    token_embedding_forward_kernel(T* y, const T* table, const T* positions, const int32_t* tokens,
                                   const int32_t* offsets, int64_t width) {
  const int64_t first = offsets[blockIdx.x], last = offsets[blockIdx.x + 1];
  for (int64_t row = first + threadIdx.y; row < last; row += kBlockWarps) {
    const T *entry = table + tokens[row] * width, *place = positions + (row - first) * width;
    for_row_vectors<T>(width, [=](int64_t column, int64_t left) {
      float values[kVector<T>], added[kVector<T>];
      load_vector(values, entry + column, left);
      load_vector(added, place + column, left);
      for (int i = 0; i < kVector<T>; ++i) values[i] += added[i];
      store_vector(y + row * width + column, values, left);
    });
  }
}

/// Sums of the rows at place blockIdx.z, over a segment of captions: partials [segments, L, C].
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    position_sums_kernel(float* partials, const T* dy, const int32_t* offsets, int64_t captions,
                         int64_t width) {
  const int64_t place = blockIdx.z;
  float* partial = partials + (static_cast<int64_t>(blockIdx.y) * gridDim.z + place) * width;
  sum_segment<T, 1>(
      partial, {captions, width},
      [=](float(&sums)[1][kVector<T>], int64_t caption, int64_t column, int64_t left) {
        const int64_t row = offsets[caption] + place;
        if (row >= offsets[caption + 1]) return;
        float values[kVector<T>];
        load_vector(values, dy + row * width + column, left);
        for (int i = 0; i < kVector<T>; ++i) sums[0][i] += values[i];
      });
}

// The table's gradient: `order` lists the rows by token, so that each token is a run of entries. A
// piece of kWarp entries is added up by one warp (for a block of columns). A run inside one piece is
// finished there; of a run across pieces, each keeps its part, and a second kernel adds the parts in
// order. So neither a rare token nor the end-of-text token makes one warp work long.

/// One piece's entries, one in each lane, and what continues beyond its ends.
struct Piece {
  int64_t first;     // entry of lane 0
  int count;         // entries, at most kWarp
  int32_t row, id;   // of this lane's entry
  bool from_before;  // its first run began in the piece before
  bool goes_on;      // its last run continues in the piece after
};

__device__ Piece piece_at(int64_t piece, const int32_t* tokens, const int32_t* order,
                          int64_t entries) {
  const auto id_at = [=](int64_t entry) { return tokens[order[entry]]; };
  Piece p;
  p.first = piece * kWarp;
  const int64_t left = entries - p.first;
  p.count = left < kWarp ? static_cast<int>(left) : kWarp;
  const int64_t own = p.first + (static_cast<int>(threadIdx.x) < p.count ? threadIdx.x : 0);
  p.row = order[own];
  p.id = tokens[p.row];
  p.from_before = p.first > 0 && id_at(p.first - 1) == id_at(p.first);
  const int64_t end = p.first + p.count;
  p.goes_on = end < entries && id_at(end - 1) == id_at(end);
  return p;
}

/// Which of a piece's two partial sums [pieces, 2, C]: its first run's, begun before, or its last's.
enum { kBegunBefore = 0, kBegunHere = 1 };

/// Grid (blocks of pieces, blocks of columns); one warp for each piece.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    table_sums_kernel(float* dtable, float* partials, const T* dy, const int32_t* tokens,
                      const int32_t* order, bool add, int64_t entries, int64_t width) {
  constexpr int kCount = kVector<T>;
  const int64_t piece = warp_row();
  if (piece * kWarp >= entries) return;
  const Piece p = piece_at(piece, tokens, order, entries);
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * kWarp + threadIdx.x) * kCount;
  const int64_t left = width - column;
  float sums[kCount] = {};
  bool begun_before = p.from_before;
  for (int entry = 0; entry < p.count; ++entry) {
    const int32_t row = __shfl_sync(kAllLanes, p.row, entry);
    const int32_t id = __shfl_sync(kAllLanes, p.id, entry);
    const int32_t next = __shfl_sync(kAllLanes, p.id, entry + 1 < p.count ? entry + 1 : entry);
    float values[kCount];
    load_vector(values, dy + row * width + column, left);
    for (int i = 0; i < kCount; ++i) sums[i] += values[i];
    const bool at_end = entry + 1 == p.count;
    if (!at_end && next == id) continue;
    const bool finished = !begun_before && !(at_end && p.goes_on);
    float* to = finished
                    ? dtable + id * width
                    : partials + (2 * piece + (begun_before ? kBegunBefore : kBegunHere)) * width;
    for (int i = 0; i < kCount; ++i) {
      if (i < left) put(to[column + i], sums[i], finished && add);
      sums[i] = 0;
    }
    begun_before = false;
  }
}

/// Adds the parts of a run in the warp of the piece where it begins; one lane for each column.
__global__ void __launch_bounds__(kBlockThreads)
    join_table_sums_kernel(float* dtable, const float* partials, const int32_t* tokens,
                           const int32_t* order, bool add, int64_t entries, int64_t width) {
  const int64_t piece = warp_row();
  if (piece * kWarp >= entries) return;
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kWarp + threadIdx.x;
  const auto id_at = [=](int64_t entry) { return tokens[order[entry]]; };
  const int64_t end = (piece + 1) * kWarp;
  if (end >= entries) return;
  const int32_t id = id_at(end - 1);
  // A run through the whole piece from the one before is not this piece's.
  const bool begins_here = piece == 0 || id_at(piece * kWarp - 1) != id;
  if (!begins_here || id_at(end) != id || column >= width) return;
  float total = partials[(2 * piece + kBegunHere) * width + column];
  for (int64_t next = piece + 1; next * kWarp < entries && id_at(next * kWarp) == id; ++next)
    total += partials[(2 * next + kBegunBefore) * width + column];
  put(dtable[id * width + column], total, add);
}

void add_to_table(Tensor& dtable, const Tensor& dy, const Tensor& tokens, const Tensor& order,
                  Accumulate to_dtable, cudaStream_t stream) {
  if (to_dtable == Accumulate::kNo) dtable.backend().fill_zero(dtable);  // tokens not in use
  const int64_t entries = tokens.numel(), width = dtable.width();
  if (dy.numel() == 0) return;
  const int64_t pieces = divide_up(entries, kWarp);
  Tensor partials = Tensor::empty(dy.backend(), {pieces, 2, width}, DType::kF32);
  const bool add = to_dtable == Accumulate::kYes;
  LaunchShape shape = warp_per_row(pieces);
  for_cuda_float("token_embedding", dy.dtype(), [&]<class T>(T) {
    shape.grid.y = static_cast<unsigned>(divide_up(width, kWarp * kVector<T>));
    launch("token_embedding_backward", table_sums_kernel<T>, shape, stream, dtable.data<float>(),
           partials.data<float>(), dy.data<T>(), tokens.data<int32_t>(), order.data<int32_t>(), add,
           entries, width);
  });
  shape.grid.y = static_cast<unsigned>(divide_up(width, kWarp));
  launch("token_embedding_backward", join_table_sums_kernel, shape, stream, dtable.data<float>(),
         partials.data<float>(), tokens.data<int32_t>(), order.data<int32_t>(), add, entries,
         width);
}

void add_to_positions(Tensor& dpositions, const Tensor& dy, const Tensor& offsets,
                      Accumulate to_dpositions, cudaStream_t stream) {
  const int64_t captions = offsets.numel() - 1, width = dpositions.width(),
                places = dpositions.size(0);
  Tensor partials =
      Tensor::empty(dy.backend(), {segment_count(captions), places * width}, DType::kF32);
  if (partials.numel() > 0) {
    for_cuda_float("token_embedding", dy.dtype(), [&]<class T>(T) {
      launch("token_embedding_backward", position_sums_kernel<T>,
             segment_blocks<T, 1>({captions, width}, places), stream, partials.data<float>(),
             dy.data<T>(), offsets.data<int32_t>(), captions, width);
    });
  }
  add_segments(stream, {{dpositions, to_dpositions}}, partials, places * width);
}

}  // namespace

void CudaBackend::token_embedding_forward(Tensor& y, const Tensor& table, const Tensor& positions,
                                          const Tensor& tokens, const Tensor& offsets) {
  if (y.numel() == 0) return;
  for_cuda_float("token_embedding", y.dtype(), [&]<class T>(T) {
    launch("token_embedding_forward", token_embedding_forward_kernel<T>,
           blocks(offsets.numel() - 1), compute_stream(), y.data<T>(), table.data<T>(),
           positions.data<T>(), tokens.data<int32_t>(), offsets.data<int32_t>(), y.width());
  });
}

void CudaBackend::token_embedding_backward(Tensor& dtable, Tensor& dpositions, const Tensor& dy,
                                           const Tensor& tokens, const Tensor& offsets,
                                           const Tensor& order, Accumulate to_dtable,
                                           Accumulate to_dpositions) {
  const cudaStream_t stream = compute_stream();
  if (dtable) add_to_table(dtable, dy, tokens, order, to_dtable, stream);
  if (dpositions) add_to_positions(dpositions, dy, offsets, to_dpositions, stream);
}

}  // namespace clip
