// What measurements share: made-up data and timed runs.
#pragma once

#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "apps/common/program.h"
#include "models/config.h"
#include "models/data_loader.h"

namespace clip {

/// printf into standard output.
template <class... Values>
void say(const char* format, Values... values) {
  std::cout << formatted(format, values...) << std::flush;
}

/// Pixels and captions of a fixed seed; every caption has `text_length` tokens, start and end
/// included.
HostBatch made_up_batch(const ClipConfig& config, int64_t batch_size, int64_t text_length);

/// Seconds of several runs of the same work.
struct Timing {
  double median = 0, least = 0, most = 0;
};
/// Runs `work` warmup + runs times and times the last `runs`, each to the end of what it started on
/// the backend's device.
Timing time_runs(Backend& backend, int64_t warmup, int64_t runs, const std::function<void()>& work);

/// Peak of dense BF16 products in FLOP/s by the device's name; 0 if it is not known.
double known_peak(const std::string& device_name);

}  // namespace clip
