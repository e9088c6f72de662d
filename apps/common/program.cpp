#include "apps/common/program.h"

#include <signal.h>

#include <atomic>
#include <cctype>
#include <csignal>
#include <iostream>
#include <new>
#include <thread>

namespace clip {
namespace {

std::atomic<bool> catching_stops = false, stopping = false;

void wait_for_stop_signals(sigset_t signals) {
  while (true) {
    int signal = 0;
    ::sigwait(&signals, &signal);
    ::sigdelset(&signals, signal);
    sigset_t freed;
    ::sigemptyset(&freed);
    ::sigaddset(&freed, signal);
    std::signal(signal, SIG_DFL);
    ::pthread_sigmask(SIG_UNBLOCK, &freed, nullptr);  // the next one ends the program here
    if (!catching_stops) std::raise(signal);
    stopping = true;
  }
}

}  // namespace

std::string one_line(std::string text) {
  for (char& c : text)
    if (std::iscntrl(static_cast<unsigned char>(c)) != 0) c = ' ';
  return text;
}

int run_program(const std::string& name, const std::function<void()>& body,
                const std::string& speaker) {
  const auto fail = [&](const std::string& sentence, int code) {
    std::cout.flush();
    std::cerr << concat(speaker.empty() ? name : speaker, ": ", one_line(sentence), '\n');
    return code;
  };
  try {
    try {
      body();
    } catch (const HelpShown&) {
    }
    std::cout.flush();
    if (!std::cout) return fail("standard output cannot be written", 1);
    return 0;
  } catch (const UsageError& error) {
    return fail(concat(error.what(), " (", name, " --help lists the options)"), 2);
  } catch (const std::bad_alloc&) {
    return fail("there is not enough memory; try a smaller batch or model", 1);
  } catch (const std::exception& error) {
    return fail(error.what(), 1);
  }
}

boost::program_options::variables_map parse_options(
    int argc, const char* const* argv, const boost::program_options::options_description& options,
    const std::string& usage, const char* positional) {
  namespace po = boost::program_options;
  try {
    po::variables_map values;
    using Style = po::command_line_style::style_t;
    const int style = Style::unix_style & ~Style::allow_guessing;  // a prefix is no option
    po::positional_options_description words;
    po::command_line_parser parser(argc, argv);
    parser.options(options).style(style);
    if (positional != nullptr) parser.positional(words.add(positional, 1));
    const auto parsed = parser.run();
    for (const po::option& option : parsed.options)
      if (option.position_key >= 0 && option.string_key.empty())
        throw UsageError(concat("unexpected argument '", option.value.at(0), "'"));
    po::store(parsed, values);
    if (values.count("help") > 0) {
      std::cout << usage << '\n' << options;
      throw HelpShown();
    }
    return values;
  } catch (const po::error& error) {
    throw UsageError(error.what());
  }
}

ChosenDevice choose_device(const std::string& name, int64_t local_rank) {
  if (name == "cpu") return {&cpu_backend(), nullptr, ""};
  const auto gpu = [](int index) {
    ChosenDevice chosen;
    chosen.owned = make_cuda_backend(index);
    chosen.backend = chosen.owned.get();
    return chosen;
  };
  if (name == "auto") {
    try {
      return gpu(static_cast<int>(local_rank));
    } catch (const Error& error) {
      return {&cpu_backend(), nullptr, one_line(concat("cpu, as there is ", error.what()))};
    }
  }
  if (name == "cuda") return gpu(static_cast<int>(local_rank));
  if (name.starts_with("cuda:") && name.size() > 5 && name.size() < 9 &&
      name.find_first_not_of("0123456789", 5) == std::string::npos)
    return gpu(std::stoi(name.substr(5)));
  throw UsageError(concat("--device must be auto, cpu, cuda or cuda:i, got '", name, "'"));
}

void ChosenDevice::print_note() const {
  if (!note.empty()) std::cerr << concat("device ", note, '\n');
}

DType choose_precision(const std::string& name, const Backend& backend) {
  if (name == "fp32") return DType::kF32;
  if (name == "bf16") return DType::kBF16;
  if (name == "auto") return backend.fast_dtype();
  throw UsageError(concat("--precision must be fp32, bf16 or auto, got '", name, "'"));
}

const char* precision_name(DType precision) { return precision == DType::kBF16 ? "bf16" : "fp32"; }

void receive_stop_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  // SIGUSR1 is what mpirun passes on to its ranks and survives.
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) ::sigaddset(&signals, signal);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread(wait_for_stop_signals, signals).detach();
}

void catch_stop_signals() { catching_stops = true; }

bool stop_requested() { return stopping; }

}  // namespace clip
