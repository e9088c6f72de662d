// What the machine can do, and how near each op comes to it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/backend.h"

namespace clip {

/// What a device does at best, measured: the fastest of several large products, and a long addition.
struct Peak {
  double flop_per_s = 0;   ///< of products in the dtype asked for
  double bytes_per_s = 0;  ///< read and written
};
Peak measure_peak(Backend& backend, DType dtype);

/// Times every op case of tests/op_cases.cpp whose name begins with `name`, forward and backward, and
/// prints a line for each: milliseconds, what it computes or moves a second, and its share of the peak.
/// throws UsageError if there is none
void bench_ops(const std::string& name, Backend& backend, DType dtype, int64_t warmup, int64_t runs,
               nlohmann::json& result);

}  // namespace clip
