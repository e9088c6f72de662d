// apps/bench --scale: what a training step would cost on many ranks, from models/scale.h.
#pragma once

#include <boost/program_options.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/scale.h"

namespace clip {

struct ScaleOptions {
  std::vector<int64_t> ranks;
  int64_t accum_freq = 1;
  Activations activations = Activations::kKept;
  Machines machines;  ///< flop_per_s 0: to be measured; loss_flop_per_s 0: as flop_per_s
  double memory_bytes = 0;
};

boost::program_options::options_description scale_option_list();
/// throws UsageError that names the option
ScaleOptions chosen_scale(const boost::program_options::variables_map& values);

/// Prints the costs as a table with a row for each number of ranks, and adds them to `result`.
/// plan      its ranks, micro-batches and activations are taken from `options`
/// options   with flop_per_s
void report_scale(const ClipConfig& config, ScalePlan plan, const ScaleOptions& options,
                  nlohmann::json& result);

}  // namespace clip
