// tests/check_ptx.sh on this build's GPU kernels, and on texts with one fault planted at a time.
#include <gtest/gtest.h>

#include <filesystem>

#include "engine/check.h"
#include "tests/run_command.h"
#include "tests/scratch_folder.h"

namespace clip {
namespace {

CommandResult check(const std::string& library) {
  return run_command(script_path("check_ptx.sh") + " '" + library + "'");
}

TEST(CheckPtx, FindsInEveryKernelTheInstructionsItWasWrittenFor) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe");
  const auto library = self.parent_path().parent_path() / "lib/libclip_cuda.so";
  if (!std::filesystem::exists(library)) GTEST_SKIP() << "this build has no GPU kernels";
  const CommandResult result = check(library.string());
  EXPECT_EQ(result.status, 0) << result.output;
}

/// A kernel of cuda/<file>.cu as nvcc names it, with these instructions.
std::string kernel(const std::string& file, const std::string& name, const std::string& body) {
  return concat("\n.entry _ZN4clip", file.size() + 35, "_GLOBAL__N__a959c43e_", file.size() + 3,
                "_", file, "_cu_20953de7", name.size() + 7, name, "_kernelIfEEvPT_(\n)\n{\n", body,
                "ret;\n}\n");
}

std::string report_on(const std::string& text) {
  const ScratchFolder folder;
  folder.write("library", text);
  const CommandResult result = check(folder.path("library"));
  EXPECT_EQ(result.status, 1) << result.output;
  return result.output;
}

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(CheckPtx, NamesTheKernelAndWhatItLacks) {
  const std::string load = "ld.global.v4.f32 \t{%f1, %f2, %f3, %f4}, [%rd1];\n";
  const std::string store = "@%p1 st.global.v4.u32 [%rd1], {%r1,%r2,%r3,%r4};\n";
  const std::string report = report_on(kernel("gelu", "bias_gelu_forward", load) +
                                       kernel("gelu", "bias_gelu_backward", load + store));
  EXPECT_TRUE(holds(report, "bias_gelu_forward_kernel<float>(float*): no st.global.v4\n"))
      << report;
  EXPECT_FALSE(holds(report, "bias_gelu_backward_kernel")) << report;
  EXPECT_TRUE(holds(report, "cuda/attention_mma forward: not in the library\n")) << report;
}

TEST(CheckPtx, NamesAKernelWithAnAtomic) {
  const std::string report =
      report_on(kernel("reduce", "convert", "red.global.add.f32 \t[%rd1], %f1;\n") +
                kernel("reduce", "fill", "redux.sync.add.s32 %r1, %r2, %r3;\n"));
  EXPECT_TRUE(holds(report, "convert_kernel<float>(float*): an atomic: red.global.add.f32\n"))
      << report;
  EXPECT_FALSE(holds(report, "fill_kernel")) << report;
}

TEST(CheckPtx, RefusesALibraryWithoutPtx) {
  EXPECT_TRUE(holds(report_on("\x7f"
                              "ELF"),
                    "0 kernels read\n"));
}

}  // namespace
}  // namespace clip
