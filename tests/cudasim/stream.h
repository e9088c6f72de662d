// Streams: queues of operations that run when the host waits, in an order that options() names.
#pragma once

#include <cuda_runtime.h>

#include <functional>

#include "tests/cudasim/block.h"

namespace cudasim {

/// Adds an operation to a stream. An error if there is no such stream, or for the null stream, which
/// waits for others where nobody asked for it.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> run);
/// The threads of the stream whose operation is running.
FiberPool& fibers_of_running_stream();
void synchronize_device();
/// Those created without cudaStreamNonBlocking.
void synchronize_blocking_streams();

}  // namespace cudasim
