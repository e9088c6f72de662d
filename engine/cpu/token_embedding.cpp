// The text tower's way in: rows of the vocabulary table plus positions, captions end to end.
#include <algorithm>
#include <vector>

#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/segments.h"

namespace clip {
namespace {

/// Where each run of one token id starts in `order`; one more entry for the end.
std::vector<int64_t> run_starts(const int32_t* tokens, const int32_t* order, int64_t rows) {
  std::vector<int64_t> starts;
  for (int64_t i = 0; i < rows; ++i) {
    if (i == 0 || tokens[order[i]] != tokens[order[i - 1]]) starts.push_back(i);
  }
  starts.push_back(rows);
  return starts;
}

/// One task per id in use: its row of dtable is summed in the given order. Where dtable is written,
/// the task also clears the unused rows before its own; a last task clears those behind.
template <class T>
void add_to_table(Tensor& dtable, const Tensor& dy, const Tensor& tokens, const Tensor& order,
                  Accumulate to_dtable) {
  const int64_t width = dtable.width(), vocabulary = dtable.size(0);
  const int32_t *ids = tokens.data<int32_t>(), *row_at = order.data<int32_t>();
  const std::vector<int64_t> starts = run_starts(ids, row_at, tokens.numel());
  const auto runs = static_cast<int64_t>(starts.size()) - 1;
  Real<T>* table = dtable.data<Real<T>>();
  const T* dys = dy.data<T>();
  const auto start_of = [&](int64_t run) { return starts[static_cast<size_t>(run)]; };
  const auto id_of = [&](int64_t run) -> int64_t { return ids[row_at[start_of(run)]]; };
  parallel_for_dynamic(runs + 1, [&](int64_t run) {
    const int64_t id = run < runs ? id_of(run) : vocabulary;
    if (to_dtable == Accumulate::kNo) {
      const int64_t after_previous = run > 0 ? id_of(run - 1) + 1 : 0;
      std::fill(table + after_previous * width, table + id * width, Real<T>(0));
    }
    if (run == runs) return;
    Accumulate to = to_dtable;
    for (int64_t i = start_of(run); i < start_of(run + 1); ++i) {
      put_row(table + id * width, dys + row_at[i] * width, width, to);
      to = Accumulate::kYes;
    }
  });
}

/// One task per place: the rows at that place are summed over the captions in order.
template <class T>
void add_to_positions(Tensor& dpositions, const Tensor& dy, const Tensor& offsets,
                      Accumulate to_dpositions) {
  const int64_t width = dpositions.width(), captions = offsets.numel() - 1;
  Real<T>* positions = dpositions.data<Real<T>>();
  const T* dys = dy.data<T>();
  const int32_t* first_row = offsets.data<int32_t>();
  parallel_for(dpositions.size(0), [=](int64_t place) {
    Real<T>* sum = positions + place * width;
    if (to_dpositions == Accumulate::kNo) std::fill(sum, sum + width, Real<T>(0));
    for (int64_t caption = 0; caption < captions; ++caption) {
      const int64_t row = first_row[caption] + place;
      if (row < first_row[caption + 1]) put_row(sum, dys + row * width, width, Accumulate::kYes);
    }
  });
}

}  // namespace

void CpuBackend::token_embedding_forward(Tensor& y, const Tensor& table, const Tensor& positions,
                                         const Tensor& tokens, const Tensor& offsets) {
  for_float("token_embedding", y.dtype(), [&]<class T>(T) {
    const int64_t width = y.width();
    T* out = y.data<T>();
    const T *entries = table.data<T>(), *places = positions.data<T>();
    const int32_t *ids = tokens.data<int32_t>(), *first_row = offsets.data<int32_t>();
    parallel_for(offsets.numel() - 1, [=](int64_t caption) {
      for (int64_t row = first_row[caption]; row < first_row[caption + 1]; ++row) {
        T* y_row = out + row * width;
        const T *entry = entries + ids[row] * width,
                *place = places + (row - first_row[caption]) * width;
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) {
          assign(y_row[c], to_real(entry[c]) + to_real(place[c]));
        }
      }
    });
  });
}

void CpuBackend::token_embedding_backward(Tensor& dtable, Tensor& dpositions, const Tensor& dy,
                                          const Tensor& tokens, const Tensor& offsets,
                                          const Tensor& order, Accumulate to_dtable,
                                          Accumulate to_dpositions) {
  for_float("token_embedding", dy.dtype(), [&]<class T>(T) {
    if (dtable) add_to_table<T>(dtable, dy, tokens, order, to_dtable);
    if (dpositions) add_to_positions<T>(dpositions, dy, offsets, to_dpositions);
  });
}

}  // namespace clip
