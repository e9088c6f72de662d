#include "tests/cudasim/stream.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "tests/cudasim/counts.h"
#include "tests/cudasim/error.h"
#include "tests/cudasim/fault.h"
#include "tests/cudasim/options.h"
#include "tests/cudasim/sanitizer.h"

namespace cudasim {
namespace {

struct Stream;

struct Event {
  Stream* stream = nullptr;  ///< of the last record
  uint64_t records = 0;      ///< asked for so far
  uint64_t done = 0;
  bool timed = true;
  std::chrono::steady_clock::time_point time;
  uint64_t clock = 0;  // ThreadSanitizer's
};

struct Operation {
  std::function<void()> run;
  Event* event = nullptr;  ///< to wait for first, until `records` of it are done
  uint64_t records = 0;
  std::unique_ptr<uint64_t> call{new uint64_t(0)};  // ThreadSanitizer's clock: the host comes first
};

struct Stream {
  std::deque<Operation> queue;
  bool blocking = true;
  bool alive = true;
  void* identity = new_identity();
  uint64_t finished = 0;  // ThreadSanitizer's clock
  FiberPool fibers;
};

// Streams are kept for ever and used again, because ThreadSanitizer's identities are few.
std::vector<Stream*>& all_streams() {
  static auto* streams = new std::vector<Stream*>;
  return *streams;
}

Stream* running_stream = nullptr;

Stream* find_stream(cudaStream_t handle) {
  for (Stream* stream : all_streams())
    if (stream->alive && reinterpret_cast<cudaStream_t>(stream) == handle) return stream;
  return nullptr;
}

cudaError_t no_such_stream(cudaStream_t handle) {
  return fail(cudaErrorInvalidResourceHandle,
              handle == nullptr
                  ? "the null stream is not used here: it waits for others that nobody named"
                  : "the stream does not exist");
}

bool may_run(const Stream& stream) {
  if (stream.queue.empty()) return false;
  const Operation& next = stream.queue.front();
  return next.event == nullptr || next.event->done >= next.records;
}

void run_next(Stream& stream) {
  Operation operation = std::move(stream.queue.front());
  stream.queue.pop_front();
  void* host = current_identity();
  Stream* outer = std::exchange(running_stream, &stream);
  switch_identity(stream.identity);
  take_over(operation.call.get());
  if (operation.event != nullptr) take_over(&operation.event->clock);
  if (operation.run) operation.run();
  operation.run = nullptr;  // what it holds was read by the stream, which therefore frees it
  hand_over(&stream.finished);
  switch_identity(host);
  running_stream = outer;
}

void run_until(const Event& event, uint64_t records);

void run_front(Stream& stream) {
  const Operation& next = stream.queue.front();
  if (next.event != nullptr) run_until(*next.event, next.records);
  run_next(stream);
}

// Only what the event needs.
void run_until(const Event& event, uint64_t records) {
  while (event.done < records) run_front(*event.stream);
}

void run_others(const Stream& stream) {
  if (options().streams != StreamOrder::kOthers) return;
  for (bool any = true; any;) {
    any = false;
    for (Stream* other : all_streams())
      for (; other != &stream && may_run(*other); any = true) run_next(*other);
  }
}

void drain(Stream& stream) {
  run_others(stream);
  while (!stream.queue.empty()) run_front(stream);
  take_over(&stream.finished);
}

void push(Stream& stream, Operation operation) {
  hand_over(operation.call.get());
  stream.queue.push_back(std::move(operation));
  if (options().streams == StreamOrder::kEager) drain(stream);
}

cudaError_t create(cudaStream_t* handle, bool blocking) {
  std::vector<Stream*>& all = all_streams();
  const auto unused = std::find_if(all.begin(), all.end(), [](Stream* s) { return !s->alive; });
  Stream* stream = unused == all.end() ? new Stream : *unused;
  if (unused == all.end()) all.push_back(stream);
  stream->alive = true;
  stream->blocking = blocking;
  *handle = reinterpret_cast<cudaStream_t>(stream);
  return cudaSuccess;
}

Event& event_of(cudaEvent_t handle) { return *reinterpret_cast<Event*>(handle); }

}  // namespace

cudaError_t enqueue(cudaStream_t handle, std::function<void()> run) {
  Stream* stream = find_stream(handle);
  if (stream == nullptr) return no_such_stream(handle);
  Operation operation;
  operation.run = std::move(run);
  push(*stream, std::move(operation));
  return cudaSuccess;
}

// Without ThreadSanitizer any stack will do.
FiberPool& fibers_of_running_stream() {
  static FiberPool* common = new FiberPool;
  return under_thread_sanitizer() ? running_stream->fibers : *common;
}

void synchronize_device() {
  for (Stream* stream : all_streams()) drain(*stream);
}

void synchronize_blocking_streams() {
  for (Stream* stream : all_streams())
    if (stream->alive && stream->blocking) drain(*stream);
}

}  // namespace cudasim

using Lock = std::lock_guard<std::recursive_mutex>;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  const Lock lock(cudasim::runtime_mutex());
  return cudasim::create(stream, (flags & cudaStreamNonBlocking) == 0);
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  const Lock lock(cudasim::runtime_mutex());
  cudasim::Stream* stream = cudasim::find_stream(handle);
  if (stream == nullptr) return cudasim::no_such_stream(handle);
  cudasim::drain(*stream);
  stream->alive = false;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  const Lock lock(cudasim::runtime_mutex());
  ++cudasim::counts().waits;
  cudasim::Stream* stream = cudasim::find_stream(handle);
  if (stream == nullptr) return cudasim::no_such_stream(handle);
  cudasim::drain(*stream);
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  const Lock lock(cudasim::runtime_mutex());
  ++cudasim::counts().waits;
  cudasim::synchronize_device();
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned flags) {
  auto* event = new cudasim::Event;
  event->timed = (flags & cudaEventDisableTiming) == 0;
  *handle = reinterpret_cast<cudaEvent_t>(event);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* handle) { return cudaEventCreateWithFlags(handle, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  const Lock lock(cudasim::runtime_mutex());
  cudasim::synchronize_device();  // operations of the queues may hold it
  delete &cudasim::event_of(handle);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  const Lock lock(cudasim::runtime_mutex());
  cudasim::Stream* stream = cudasim::find_stream(stream_handle);
  if (stream == nullptr) return cudasim::no_such_stream(stream_handle);
  cudasim::Event* event = &cudasim::event_of(handle);
  event->stream = stream;
  const uint64_t record = ++event->records;
  return cudasim::enqueue(stream_handle, [=] {
    cudasim::hand_over(&event->clock);
    event->done = record;
    const cudasim::WithoutHistory host_stack;  // the clock is read by way of it
    event->time = std::chrono::steady_clock::now();
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t handle, unsigned) {
  const Lock lock(cudasim::runtime_mutex());
  cudasim::Stream* stream = cudasim::find_stream(stream_handle);
  if (stream == nullptr) return cudasim::no_such_stream(stream_handle);
  cudasim::Operation operation;
  operation.event = &cudasim::event_of(handle);
  operation.records = operation.event->records;
  cudasim::push(*stream, std::move(operation));
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  const Lock lock(cudasim::runtime_mutex());
  ++cudasim::counts().waits;
  cudasim::Event& event = cudasim::event_of(handle);
  if (event.stream == nullptr) return cudaSuccess;
  cudasim::run_others(*event.stream);
  cudasim::run_until(event, event.records);
  cudasim::take_over(&event.clock);
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t handle) { return cudaEventSynchronize(handle); }

cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  const Lock lock(cudasim::runtime_mutex());
  const cudasim::Event& first = cudasim::event_of(start);
  const cudasim::Event& last = cudasim::event_of(end);
  if (!first.timed || !last.timed || first.records == 0 || last.records == 0)
    return cudasim::fail(cudaErrorInvalidResourceHandle,
                         "time between events that were not recorded or are not timed");
  if (first.done < first.records || last.done < last.records)
    return cudasim::fail(cudaErrorNotReady, "time between events that nobody waited for");
  *milliseconds = std::chrono::duration<float, std::milli>(last.time - first.time).count();
  return cudaSuccess;
}
