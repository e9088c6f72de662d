# The whole build. `make help` lists what can be made; objects and programs go to build/.
#
# engine/ becomes libclip_cpu.so, compiled twice from the same sources: for every x86-64-v3 machine
# and, under glibc-hwcaps/, for those with AVX-512. The system's loader takes the widest one the
# machine can run, so no source file asks what it runs on. autograd/ and models/ become libclip.a;
# every apps/*.cpp is a program, every tests/*_test.cpp a test program; apps/common/ and the other
# tests/*.cpp are what those share.
#
# cuda/*.cu becomes libclip_cuda.so where there is nvcc; programs load it when they are told to use a
# GPU. With SIM the same files are compiled by $(CXX) into libclip.a, together with the simulated GPU
# of tests/cudasim/; those programs go to build/sim/.

# ---- What the caller may set --------------------------------------------------------------------
CXX := g++
OPTIMIZE := -O3
SANITIZE :=#     address,undefined or thread: a build of its own beside the normal one
CUDA :=#         no: leave the GPU out, although there is nvcc
MPI :=#          no: leave MPI out, although there is mpicxx
CUDA_ARCHS := 80 90# compute capabilities to compile for; of the last one PTX too
JPEG :=#         stb: leave libjpeg-turbo out, although it is there
SIM :=#          1: with the simulated GPU; address or thread: its kernels watched by that sanitizer
SIM_KINDS := 1 address thread# kinds of simulated GPU that make test runs: plain, and under each sanitizer
TEST_TIMEOUT :=# seconds a test program may take
FILTER :=#       GoogleTest filter, e.g. make test FILTER='Gelu*'
TESTS :=#        test programs to run, e.g. make test TESTS='clip_test gelu_kernel_test'
V :=#            anything: print whole commands

ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc)
endif
MAKEFLAGS += --no-builtin-rules --no-builtin-variables
SHELL := /bin/bash
.DELETE_ON_ERROR:
.SECONDARY:
Q := $(if $(V),,@)

# ---- Sources and flags --------------------------------------------------------------------------
comma := ,
machine := $(shell $(CXX) -dumpmachine 2>/dev/null)
B := build$(if $(SANITIZE),/$(subst $(comma),-,$(SANITIZE)))
# What differs with SIM; the rest of $(B) is shared.
P := $(B)$(if $(SIM),/$(if $(filter 1,$(SIM)),sim,sim-$(SIM)))

# The CUDA toolkit: nvcc for the GPU, NVIDIA's headers alone for the simulator.
find_nvcc := command -v nvcc || ls $${CUDA_HOME:+"$$CUDA_HOME/bin/nvcc"} /usr/local/cuda/bin/nvcc 2>/dev/null
nvcc := $(if $(filter no,$(CUDA)),,$(firstword $(shell $(find_nvcc))))
cuda_home := $(if $(nvcc),$(patsubst %/bin/nvcc,%,$(realpath $(nvcc))))
# Which file defines make_cuda_backend, the seam of the GPU: there is none, a library loaded at run
# time, or the kernels themselves.
gpu := $(if $(SIM),simulated,$(if $(and $(nvcc),$(if $(SANITIZE),,yes)),real,none))
ifneq ($(SIM),)
ifeq ($(cuda_home),)
$(error SIM needs the headers of NVIDIA's CUDA toolkit: nvcc was not found in PATH, $$CUDA_HOME/bin or /usr/local/cuda/bin)
endif
ifeq ($(filter 1 address thread,$(SIM)),)
$(error SIM must be 1, address or thread, got $(SIM))
endif
endif

# MPI, where its compiler wrapper (Open MPI's or MPICH's way of asking) tells how to use it. One of
# two files defines make_communicator, the seam of the ranks. Its headers' C++ classes are left out.
# Sanitizers would report what Open MPI leaks.
mpicxx := $(if $(filter no,$(MPI))$(SANITIZE),,$(shell command -v mpicxx))
mpi_seam := engine/mpi_communicator.cpp engine/no_mpi.cpp
mpi_source := $(if $(mpicxx),$(firstword $(mpi_seam)),$(lastword $(mpi_seam)))
ifneq ($(mpicxx),)
mpi_words := $(shell $(mpicxx) --showme:compile 2>/dev/null || $(mpicxx) -compile_info 2>/dev/null) \
  $(shell $(mpicxx) --showme:link 2>/dev/null || $(mpicxx) -link_info 2>/dev/null)
MPI_CPPFLAGS := $(patsubst -I%,-isystem%,$(filter -I%,$(mpi_words))) -DOMPI_SKIP_MPICXX -DMPICH_SKIP_MPICXX
MPI_LIBS := $(filter -L% -l% -Wl%,$(mpi_words))
endif

# NCCL joins GPUs, and MPI plays its part where they are simulated. One of two files defines
# make_gpu_communicator.
nccl := $(if $(cuda_home),$(firstword $(wildcard $(cuda_home)/include/nccl.h /usr/include/nccl.h)))
has_nccl := $(and $(nccl),$(if $(SIM),$(mpicxx),yes))
nccl_seam := cuda/nccl_communicator.cu cuda/no_nccl.cpp

# Who decodes JPEG: libjpeg-turbo where its header is (another libjpeg would have other pixels), else
# stb_image.
jpeg_version := $(if $(filter stb,$(JPEG)),,$(shell echo LIBJPEG_TURBO_VERSION | \
  $(CXX) $(CPPFLAGS) -include cstdio -include jpeglib.h -E -P -x c++ - 2>/dev/null | tail -n 1 | grep '^[0-9]'))
jpeg := $(if $(jpeg_version),turbo,stb)

ENGINE_SOURCES := $(filter-out $(mpi_seam),$(wildcard engine/*.cpp engine/cpu/*.cpp))
KERNEL_SOURCES := $(filter-out $(if $(has_nccl),,$(firstword $(nccl_seam))),$(wildcard cuda/*.cu))
# Of two ways to switch stacks, the one for this processor.
CUDASIM_SOURCES := $(filter-out tests/cudasim/fiber_$(if $(filter x86_64%,$(machine)),ucontext,x86_64).cpp \
  $(if $(has_nccl),,tests/cudasim/nccl.cpp),$(wildcard tests/cudasim/*.cpp))
CLIP_SOURCES := $(wildcard autograd/*.cpp) $(mpi_source) \
  $(filter-out models/jpeg_$(if $(filter turbo,$(jpeg)),stb,turbo).cpp,$(wildcard models/*.cpp)) \
  $(if $(filter none,$(gpu)),cuda/no_cuda.cpp $(lastword $(nccl_seam))) $(if $(filter real,$(gpu)),cuda/load_library.cpp) \
  $(if $(filter simulated,$(gpu)),$(if $(has_nccl),,$(lastword $(nccl_seam))))
APP_SOURCES := $(wildcard apps/*.cpp)
APP_SUPPORT_SOURCES := $(wildcard apps/common/*.cpp)
# Tests of a GPU, real or simulated; of the simulated one alone; and of the simulator itself.
GPU_TEST_SOURCES := $(filter-out $(if $(and $(has_nccl),$(mpicxx)),,tests/cuda_ranks_test.cpp),$(wildcard tests/cuda_*_test.cpp))
SIM_TEST_SOURCES := $(filter-out $(if $(has_nccl),,tests/cudasim_nccl_test.cpp),$(wildcard tests/cudasim_*_test.cpp))
CUDASIM_TEST_SOURCES := $(wildcard tests/cudasim/*_test.cu)
MPI_TEST_SOURCES := $(wildcard tests/mpi_*_test.cpp)
CPU_TEST_SOURCES := $(filter-out tests/cuda_%_test.cpp tests/cudasim_%_test.cpp $(if $(mpicxx),,$(MPI_TEST_SOURCES)), \
  $(wildcard tests/*_test.cpp))
# Without a GPU, real or simulated, those of a GPU would only say that they skip.
TEST_SOURCES := $(CPU_TEST_SOURCES) $(if $(SIM),$(GPU_TEST_SOURCES) $(SIM_TEST_SOURCES)) \
  $(if $(filter real,$(gpu)),$(if $(wildcard /dev/nvidiactl),$(GPU_TEST_SOURCES)))
BENCH_SOURCES := $(wildcard tests/*_bench.cpp)
TOOL_SOURCES := $(wildcard tests/*_tool.cpp)
TEST_SUPPORT_SOURCES := $(filter-out %_test.cpp $(BENCH_SOURCES) $(TOOL_SOURCES),$(wildcard tests/*.cpp))
FORMATTED = $(shell find engine autograd models cuda apps tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

# At -O3, GCC 12 suspects the standard library of overlapping copies ("text" + std::string, its bug
# 105651) and of endless reads (vectors compared in a std::set), both wrongly.
WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Werror -Wno-restrict -Wno-stringop-overread
# The libraries' headers are system headers, so these warnings are about our own code only.
CPPFLAGS += $(patsubst -I%,-isystem%,$(shell pkg-config --cflags-only-I freetype2 2>/dev/null))
flags = -std=c++20 $(OPTIMIZE) -g1 -fno-math-errno -fno-trapping-math -fopenmp $(WARNINGS) $(CXXFLAGS)
ifneq ($(filter x86_64%,$(machine)),)
baseline := -march=x86-64-v3
wide := $(if $(SANITIZE),,-march=x86-64-v4 -mprefer-vector-width=512)
endif
ifneq ($(SANITIZE),)
OPTIMIZE := -O1
# GCC's flow warnings see the sanitizers' own branches.
sanitize := -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer -Wno-maybe-uninitialized
flags += $(sanitize)
endif
shared := -fPIC -fvisibility-inlines-hidden
compile = $(CXX) $(CPPFLAGS) $(flags)
link = $(CXX) $(CXXFLAGS) $(LDFLAGS) $(firstword $(sanitize)) -fopenmp -Wl,--as-needed

# Kernels as C++: the simulator's headers shadow some of cuda/, and kernels read numbers as vectors.
as_kernel = -isystem $(cuda_home)/include -Itests/cudasim -I. -include tests/cudasim/device.h \
  -fno-strict-aliasing -Wno-unknown-pragmas -x c++
ifneq ($(filter address thread,$(SIM)),)
sim_sanitize := $(if $(filter address,$(SIM)),-fsanitize=address$(comma)undefined -fsanitize-sections=cudasim_shared,-fsanitize=thread) \
  -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -Wno-maybe-uninitialized
endif

# Kernels for the GPU. A kernel that spills registers is a mistake, like every other warning. What
# ptxas counts is kept beside the object, for cuda-report; PTX stays readable, for tests/check_ptx.sh.
architectures = $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
  -gencode arch=compute_$(lastword $(CUDA_ARCHS)),code=compute_$(lastword $(CUDA_ARCHS))
compile_kernel = $(nvcc) -std=c++20 -O3 -ccbin $(CXX) $(architectures) --expt-relaxed-constexpr \
  --generate-line-info -Werror all-warnings -Xptxas -warn-spills,-v --no-compress -Xcompiler -fPIC,-Wall,-Wextra $(NVCCFLAGS)

ENGINE_LIBS := -ldnnl
CUDA_LIBS = -L$(cuda_home)/lib64 -lcublasLt $(if $(has_nccl),-lnccl) -lcudart_static -ldl -lrt -lpthread -Wl,-rpath,$(cuda_home)/lib64
CLIP_LIBS := -lboost_program_options -larchive -llbfgs -lstb $(if $(filter turbo,$(jpeg)),-ljpeg) -lfreetype -licuuc $(MPI_LIBS)
TEST_LIBS := -lgtest_main -lgtest -lpthread# gtest_main serves only programs without a main()

# ---- Files that are made ------------------------------------------------------------------------
objects = $(patsubst %.cpp,$(B)/obj/$(1)/%.o,$(2))
engine_objects := $(call objects,baseline,$(ENGINE_SOURCES))
wide_objects := $(if $(wide),$(call objects,wide,$(ENGINE_SOURCES)))
cudasim_objects := $(call objects,sim,$(CUDASIM_SOURCES))
simulated_kernels := $(KERNEL_SOURCES:%.cu=$(P)/obj/%.o)
cudasim_test_objects := $(CUDASIM_TEST_SOURCES:%.cu=$(P)/obj/%.o)
clip_objects := $(call objects,clip,$(CLIP_SOURCES)) \
  $(if $(SIM),$(simulated_kernels) $(cudasim_objects))
app_objects := $(call objects,clip,$(APP_SOURCES))
app_support_objects := $(call objects,clip,$(APP_SUPPORT_SOURCES))
support_objects := $(call objects,test,$(TEST_SUPPORT_SOURCES))
test_objects := $(call objects,test,$(TEST_SOURCES) $(GPU_TEST_SOURCES) $(BENCH_SOURCES) $(TOOL_SOURCES))

engine_library := $(B)/lib/libclip_cpu.so
wide_library := $(if $(wide),$(B)/lib/glibc-hwcaps/x86-64-v4/libclip_cpu.so)
kernel_library := $(if $(filter real,$(gpu)),$(B)/lib/libclip_cuda.so)
kernel_objects := $(if $(kernel_library),$(KERNEL_SOURCES:%.cu=$(B)/obj/%.cu.o) \
  $(call objects,baseline,cuda/library_entry.cpp $(if $(has_nccl),,$(lastword $(nccl_seam)))))
libraries := $(engine_library) $(wide_library) $(kernel_library)
# In the order of linking: each calls only those after it.
app_archives := $(P)/libclip_apps.a $(P)/libclip.a
test_archives := $(P)/libclip_tests.a $(app_archives)
apps := $(patsubst apps/%.cpp,$(P)/apps/%,$(APP_SOURCES))
tests := $(patsubst tests/%.cpp,$(P)/tests/%,$(TEST_SOURCES))
gpu_tests := $(if $(filter none,$(gpu)),,$(patsubst tests/%.cpp,$(P)/tests/%,$(GPU_TEST_SOURCES)))
cudasim_tests := $(patsubst tests/%.cu,$(P)/tests/%,$(if $(SIM),$(CUDASIM_TEST_SOURCES)))
benches := $(patsubst tests/%.cpp,$(P)/tests/%,$(BENCH_SOURCES))
tools := $(patsubst tests/%.cpp,$(P)/tests/%,$(TOOL_SOURCES))
# apps/<name> is a link to the normal build; other builds leave it alone.
links := $(if $(SANITIZE)$(SIM),,$(APP_SOURCES:.cpp=))

.PHONY: all sim-tests gpu-programs gpu-tests gpu-check test test-fast test-v3 test-exact fuzz bench cuda-report check-layers format \
  format-check tidy clean deps found help FORCE
all: $(libraries) $(app_archives) $(apps) $(links)

# ---- Compile ------------------------------------------------------------------------------------
say = $(if $(V),,@printf '  %-5s %s\n' $(1) $(2))

$(B)/obj/baseline/%.o: %.cpp $(B)/flags | $(B)/found
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(Q)$(compile) $(baseline) $(shared) -I. -MMD -MP -c -o $@ $<

$(B)/obj/wide/%.o: %.cpp $(B)/flags | $(B)/found
	$(call say,CXX,'$< (AVX-512)')
	@mkdir -p $(@D)
	$(Q)$(compile) $(wide) $(shared) -I. -MMD -MP -c -o $@ $<

$(B)/obj/clip/%.o: %.cpp $(B)/flags | $(B)/found
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(Q)$(compile) $(baseline) -I. -MMD -MP -c -o $@ $<

$(B)/obj/clip/engine/mpi_communicator.o $(B)/obj/sim/tests/cudasim/nccl.o: private CPPFLAGS += $(MPI_CPPFLAGS)

# An absolute -I, so that __FILE__ of reference_path.h is right wherever a test is started.
$(B)/obj/test/%.o: %.cpp $(B)/flags | $(B)/found
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(Q)$(compile) $(baseline) -I'$(CURDIR)' -MMD -MP -c -o $@ $<

# Tests of the GPU know CUDA's number types. Private: what they depend on is built without.
$(call objects,test,$(GPU_TEST_SOURCES) $(SIM_TEST_SOURCES)): private CPPFLAGS += $(if $(cuda_home),-isystem $(cuda_home)/include)

$(B)/obj/sim/%.o: %.cpp $(B)/sim-flags | $(B)/found
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(Q)$(filter-out $(sanitize),$(compile)) $(baseline) $(as_kernel) -MMD -MP -c -o $@ $<

$(P)/obj/%.o: %.cu $(B)/sim-flags | $(B)/found
	$(call say,CXX,'$< (simulated$(if $(sim_sanitize), with -fsanitize=$(SIM)))')
	@mkdir -p $(@D)
	$(Q)$(compile) $(baseline) $(sim_sanitize) $(as_kernel) -MMD -MP -c -o $@ $<

$(B)/obj/%.cu.o: %.cu $(B)/nvcc-flags | $(B)/found
	$(call say,NVCC,$<)
	@mkdir -p $(@D)
	$(Q)$(compile_kernel) -I. -MMD -MP -c -o $@ $< 2>$@.ptxas || { cat $@.ptxas >&2; exit 1; }
	@grep -Ev '^ptxas info|bytes stack frame' $@.ptxas >&2 || true

# ---- Link ---------------------------------------------------------------------------------------
define link_engine
$(call say,LINK,$@)
@mkdir -p $(@D)
$(Q)$(link) -shared -Wl,-soname,libclip_cpu.so $(if $(filter clang%,$(CXX)),,-Wl$(comma)-z$(comma)defs) -o $@ $(filter %.o,$^) $(ENGINE_LIBS)
endef
$(engine_library): $(engine_objects) $(B)/engine-links
	$(link_engine)
$(wide_library): $(wide_objects) $(B)/engine-links
	$(link_engine)

$(kernel_library): $(kernel_objects) $(engine_library) $(B)/kernel-links
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(link) -shared -Wl,-soname,libclip_cuda.so -Wl,-z,defs -o $@ $(filter %.o,$^) -L$(B)/lib -lclip_cpu \
	  $(CUDA_LIBS) -Wl,-rpath,'$$ORIGIN'

$(P)/libclip.a: $(clip_objects) $(P)/links
$(P)/libclip_apps.a: $(app_support_objects) $(P)/links
$(P)/libclip_tests.a: $(support_objects) $(P)/links
$(test_archives):
	$(call say,AR,$@)
	@mkdir -p $(@D)
	$(Q)rm -f $@ && ar qcs $@ $(filter %.o,$^)

define link_program
$(call say,LINK,$@)
@mkdir -p $(@D)
$(Q)$(link) $(firstword $(sim_sanitize)) -o $@ $(filter %.o %.a,$^) -L$(B)/lib -lclip_cpu -Wl,-rpath,'$$ORIGIN/$(if $(SIM),../)../lib' $(1)
endef
# bench times the very cases that the tests check.
$(P)/apps/bench: $(B)/obj/test/tests/op_cases.o
$(apps): $(P)/apps/%: $(B)/obj/clip/apps/%.o $(app_archives) $(libraries) $(P)/links
	$(call link_program,$(CLIP_LIBS))
$(sort $(tests) $(gpu_tests)) $(benches) $(tools): $(P)/tests/%: $(B)/obj/test/tests/%.o $(test_archives) $(libraries) $(P)/links
	$(call link_program,$(CLIP_LIBS) $(TEST_LIBS))

# libFuzzer has the main().
$(P)/tests/fuzz_coverage: $(B)/obj/test/tests/fuzz_coverage.o $(test_archives) $(libraries) $(P)/links
	$(call link_program,-fsanitize=fuzzer $(CLIP_LIBS) $(TEST_LIBS))

# These need nothing of the engine but its error class.
$(cudasim_tests): $(P)/tests/%: $(P)/obj/tests/%.o $(P)/obj/cuda/check.o $(cudasim_objects) $(P)/links
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(link) $(firstword $(sim_sanitize)) -o $@ $(filter %.o,$^) $(MPI_LIBS) $(TEST_LIBS)

$(links): apps/%: $(B)/apps/%
	@ln -sfn ../$< $@

# ---- What the files depend on -------------------------------------------------------------------
-include $(patsubst %.o,%.d,$(engine_objects) $(wide_objects) $(clip_objects) $(app_objects) $(app_support_objects) $(support_objects) $(test_objects) $(cudasim_test_objects) $(kernel_objects))

# Each holds one line and is rewritten only when that line changes.
$(B)/flags: line = $(compile) | $(baseline) | $(wide) | $(shell $(CXX) -dumpfullversion 2>/dev/null)
$(B)/sim-flags: line = $(compile) | $(as_kernel)
$(B)/engine-links: line = $(link) | $(ENGINE_LIBS) | $(ENGINE_SOURCES)
$(P)/links: line = $(link) $(sim_sanitize) | $(CLIP_LIBS) $(TEST_LIBS) | $(CLIP_SOURCES) $(APP_SUPPORT_SOURCES) $(TEST_SUPPORT_SOURCES) $(KERNEL_SOURCES) $(CUDASIM_SOURCES)
$(B)/nvcc-flags: line = $(compile_kernel) | $(shell $(nvcc) --version | tail -n 1)
$(B)/kernel-links: line = $(link) | $(CUDA_LIBS) | $(KERNEL_SOURCES)
$(addprefix $(B)/,flags sim-flags nvcc-flags engine-links kernel-links) $(P)/links: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' $(call quoted,$(line)) | cmp -s - $@ || printf '%s\n' $(call quoted,$(line)) > $@
quoted = '$(subst ','\'',$(1))'

# ---- What the machine has -----------------------------------------------------------------------
REQUIRED_HEADERS := oneDNN=dnnl.hpp Boost.Program_options=boost/program_options.hpp stb_image=stb/stb_image.h \
  nlohmann-json=nlohmann/json.hpp libarchive=archive.h libLBFGS=lbfgs.h ICU=unicode/uchar.h FreeType=ft2build.h
has_header = printf '\#if !__has_include(<%s>)\n\#error\n\#endif\n' $(1) | $(CXX) $(CPPFLAGS) -E -x c++ -o /dev/null - 2>/dev/null
onednn_version = printf '\#include <dnnl_version.h>\nDNNL_VERSION_MAJOR.DNNL_VERSION_MINOR' | $(CXX) -E -P -x c++ - 2>/dev/null | tail -n 1 | tr -d ' '

# Printed once per build folder, before the first file is compiled, and by `make found`.
define show_found
row() { printf '  %-22s %s\n' "$$1" "$$2"; }; missing=; \
command -v $(CXX) >/dev/null || { echo 'make: $(CXX) not found; make deps installs it' >&2; exit 1; }; \
echo 'Building in $(B)/ with'; \
row compiler "$$($(CXX) --version | head -n 1)"; \
for pair in $(REQUIRED_HEADERS); do \
  version=; [[ $$pair != oneDNN=* ]] || version=" $$($(onednn_version))"; \
  if $(call has_header,"$${pair#*=}"); then row "$${pair%%=*}" "found$$version"; \
  else row "$${pair%%=*}" 'NOT FOUND'; missing+=" $${pair%%=*}"; fi; \
done; \
row libjpeg-turbo '$(if $(jpeg_version),found $(jpeg_version),$(if $(filter stb,$(JPEG)),left out (JPEG=stb),not found): JPEG pixels differ from Pillow by a few steps)'; \
$(call has_header,gtest/gtest.h) && row GoogleTest found || row GoogleTest 'not found: no make test'; \
fc-list 2>/dev/null | grep -q NotoColorEmoji || [[ -e /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf ]] \
  && row 'Noto Color Emoji' found || row 'Noto Color Emoji' 'not found: the default data are drawn shapes'; \
row kernels '$(if $(wide),x86-64-v3 and x86-64-v4 (AVX-512)$(comma) chosen when a program starts,one set)'; \
row MPI '$(or $(mpicxx),$(if $(filter no,$(MPI))$(SANITIZE),left out,not found)$(comma) so programs run as one process)'; \
row nvcc '$(or $(nvcc),$(if $(filter no,$(CUDA)),left out (CUDA=no),not found)$(comma) so neither GPU nor its simulator)'; \
row NCCL '$(or $(nccl),$(if $(filter no,$(CUDA)),left out (CUDA=no),not found)$(comma) so ranks have no GPUs)'; \
[[ -z $$missing ]] || { echo "make:$$missing not found; make deps installs what is missing" >&2; exit 1; }
endef
$(B)/found: $(B)/flags Makefile
	@mkdir -p $(@D)
	@set -o pipefail; { $(show_found); } | tee $@
found:
	@$(show_found)

# ---- Test and measure ---------------------------------------------------------------------------
# libgomp's barriers are invisible to ThreadSanitizer: with more than one OpenMP thread every loop
# would look like a race. One thread leaves our own threads (loader, checkpoint) to be checked.
ifeq ($(SANITIZE),thread)
test_environment += OMP_NUM_THREADS=1
endif
test_environment += FILTER=$(call quoted,$(FILTER)) TEST_TIMEOUT=$(or $(TEST_TIMEOUT),$(if $(SANITIZE),900,300))
chosen_tests := $(if $(TESTS),$(patsubst %,$(P)/tests/%,$(TESTS)),$(tests) $(call only_for,$(SIM),$(cudasim_tests)))

# The simulator suite joins the ordinary one: the kernels on the simulated GPU, plain and watched by
# each sanitizer (only they are instrumented, so the rest is not compiled again). The planted faults
# run where they are seen; those of the simulator's own reports need no second time.
sim_kinds := $(if $(and $(cuda_home),$(if $(TESTS)$(SIM)$(SANITIZE),,yes)),$(SIM_KINDS))
only_for = $(filter-out $(call not_for_$(1)),$(2))
not_for_1 := %/address_faults_test %/race_faults_test
# cuda_ranks_test has no kernels of its own, and its ranks are slow.
not_for_address := %/race_faults_test %/cuda_ranks_test
# ThreadSanitizer slows kernels down twentyfold, so it gets one test for each kernel. In
# cudasim_nccl_test it sees the planted race before the test can.
not_for_thread := %/address_faults_test %/faults_test %/missing_waits_test %/cudasim_nccl_test \
  %/cuda_attention_test %/cuda_parity_test %/cuda_ranks_test %/cuda_token_kernels_test
# OpenMP loops of libclip_cpu.so look like races there; they are not what is watched.
test_environment += TSAN_OPTIONS="$$TSAN_OPTIONS ignore_noninstrumented_modules=1"
sim_suite = $(call only_for,$(1),$(patsubst tests/%,$(B)/$(2)/tests/%,$(basename \
  $(GPU_TEST_SOURCES) $(SIM_TEST_SOURCES) $(CUDASIM_TEST_SOURCES))))
sim_suites = $(foreach kind,$(sim_kinds),$(call sim_suite,$(kind),$(if $(filter 1,$(kind)),sim,sim-$(kind))))
build_sim_suites = $(foreach kind,$(sim_kinds),$(MAKE) --no-print-directory SIM=$(kind) sim-tests &&) true
sim-tests: $(call sim_suite,$(SIM),$(notdir $(P))) $(P)/apps/train

test: all $(chosen_tests)
	@+$(build_sim_suites)
	@$(test_environment) tests/run_tests.sh $(chosen_tests) $(sim_suites)

# Without the suites whose name starts with Slow, and without sanitizers.
test-fast: private sim_kinds := $(filter 1,$(sim_kinds))
test-fast: all $(chosen_tests)
	@+$(build_sim_suites)
	@$(test_environment) SKIP_SLOW=1 tests/run_tests.sh $(chosen_tests) $(sim_suites)

# On an AVX-512 machine, the code that other machines run: ours because the loader is told to see no
# AVX-512, oneDNN's by its own variable.
plain_kernels := GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX512F ONEDNN_MAX_CPU_ISA=AVX2
test-v3: all $(chosen_tests)
	@! $(plain_kernels) LD_DEBUG=libs $(firstword $(chosen_tests)) --gtest_list_tests 2>&1 | \
	  grep 'calling init.*x86-64-v4/libclip_cpu' || { echo 'make: the loader still took these kernels' >&2; exit 1; }
	@$(test_environment) $(plain_kernels) tests/run_tests.sh $(chosen_tests)

# The tests of a GPU alone; where there is none they say that they skip.
gpu-programs: all $(gpu_tests)
gpu-tests: gpu-programs
	@$(if $(gpu_tests),$(test_environment) tests/run_tests.sh $(gpu_tests),\
	  echo 'gpu-tests: this build has no GPU kernels')

# Everything that a GPU can be asked, one stage after the other; with SIM in tiny sizes.
gpu-check:
	@+MAKE='$(MAKE) --no-print-directory' tests/gpu_check.sh $(P) $(SIM)

# Models of real size made on the spot by other libraries, with random weights; needs a Python with
# torch, open_clip and transformers. Several GB of disk in EXACT_FOLDER, a few minutes each.
EXACT_MODELS := RN50 RN101 RN50x4 RN50x16 RN50x64 ViT-B-32 ViT-B-16 ViT-L-14 ViT-L-14-336 hugging-face-B-32 H-14-two-layers
EXACT_FOLDER = $(B)/exact
BENCH_PYTHON ?=# a Python with what we compare with, from the environment too
test-exact: $(P)/tests/exact_features_tool
	@for model in $(EXACT_MODELS); do folder=$(EXACT_FOLDER)/$$model; rm -rf $$folder; \
	  $(or $(BENCH_PYTHON),python3) tests/reference/make_weights_reference.py --exact $$model $$folder >/dev/null && \
	  $< $$model $$folder/model* $$folder/features.json || exit 1; \
	  rm -rf $$folder; done

# Damaged files of every kind, read under the sanitizers: led by coverage where clang++ has libFuzzer,
# at random elsewhere. A finding ends it and leaves its input.
FUZZ_SECONDS := 60
FUZZ_SEED := 1
FUZZ_KINDS := safetensors torch pickle tar tokenizer merges config image
fuzz_folder_torch := tests/reference/weights
fuzz_folder_image := tests/reference/images
fuzz_seeds_torch := $(wildcard $(fuzz_folder_torch)/*.pt $(fuzz_folder_torch)/*.bin)
fuzz_seeds_image := $(wildcard $(addprefix $(fuzz_folder_image)/*.,png jpg bmp gif tga psd ppm pgm))
libfuzzer = $(filter /%,$(shell clang++ -print-file-name=libclang_rt.fuzzer-$(firstword $(subst -, ,$(machine))).a 2>/dev/null))
fuzz_options := -max_total_time=$(FUZZ_SECONDS) -seed=$(FUZZ_SEED) -max_len=1048576 -timeout=20 -rss_limit_mb=4096
ifeq ($(SANITIZE),)
fuzz:
	@$(MAKE) --no-print-directory SANITIZE=$(if $(libfuzzer),fuzzer-no-link$(comma))address,undefined \
	  $(if $(libfuzzer),CXX=clang++ WARNINGS=-w) fuzz
else ifneq ($(filter fuzzer%,$(subst $(comma), ,$(SANITIZE))),)
fuzz_one = mkdir -p fuzz/$(1) && \
  { FUZZ_KIND=$(1) tests/fuzz_coverage $(fuzz_options) fuzz/$(1) $(abspath $(fuzz_folder_$(1))) >fuzz/$(1).log 2>&1 || \
    { tail -n 40 fuzz/$(1).log; exit 1; }; } && \
  printf '%-12s %s\n' $(1) "$$(grep -P '\tDONE' fuzz/$(1).log | tail -n 1)"
fuzz: $(P)/tests/fuzz_coverage
	@cd $(B) && $(foreach kind,$(FUZZ_KINDS),$(call fuzz_one,$(kind)) &&) true
else
fuzz: $(P)/tests/fuzz_tool
	@mkdir -p $(B)/fuzz; cd $(B)/fuzz; $(foreach kind,$(FUZZ_KINDS),ASAN_OPTIONS=max_allocation_size_mb=2048 \
	  ../tests/fuzz_tool $(kind) $(FUZZ_SECONDS) $(FUZZ_SEED) $(abspath $(fuzz_seeds_$(kind))) &&) true
endif

# Our figures and their ratio to the floor; with BENCH_PYTHON the peers' in turn with ours.
bench_step = echo; echo "$(1) in $$precision"; $(P)/apps/bench --step $(1) --precision $$precision --device cpu --steps 5 --profile || exit 1;
bench: all $(benches)
	@for precision in fp32 bf16; do \
	  echo; echo "Ops in $$precision"; $(P)/apps/bench --ops --precision $$precision --device cpu --steps 9 || exit 1; \
	  $(call bench_step,emoji --batch-size 128 --text-length 9) \
	  $(call bench_step,tiny --batch-size 256 --text-length 12) \
	  $(call bench_step,ViT-B-32 --batch-size 32 --text-length 16) \
	  echo; $(P)/apps/bench --infer ViT-B-32 --batch-size 32 --text-length 16 --precision $$precision --device cpu --steps 5 || exit 1; \
	done
	@for program in $(benches); do echo; echo "$$program"; $$program || exit 1; done
	@$(if $(BENCH_PYTHON),echo; $(BENCH_PYTHON) tests/peers/compare.py $(P),echo 'BENCH_PYTHON=a Python with torch, open_clip, openvino: the peers beside us')

# Registers, spills and shared memory of each kernel, as counted when they were compiled.
cuda-report: $(kernel_library)
	@$(if $(kernel_library),tests/cuda_report.sh $(addsuffix .ptxas,$(KERNEL_SOURCES:%.cu=$(B)/obj/%.cu.o)),\
	  echo 'cuda-report: this build has no GPU kernels')

# ---- Look after the sources ---------------------------------------------------------------------
check-layers:
	@tests/check_layers.sh

format:
	@clang-format -i $(FORMATTED)

format-check:
	@clang-format --dry-run --Werror $(FORMATTED) || { \
	  echo "make format mends this (checked with $$(clang-format --version))"; exit 1; }

tidy:
	@printf '%s\n' $(ENGINE_SOURCES) $(CLIP_SOURCES) $(APP_SOURCES) $(APP_SUPPORT_SOURCES) | xargs -P $$(nproc) -n 1 sh -c \
	  'echo "  TIDY  $$0"; clang-tidy --quiet "$$0" -- -std=c++20 -I. $(CPPFLAGS) $(MPI_CPPFLAGS) $(baseline) -fopenmp 2>/dev/null'

clean:
	rm -rf build
	@find apps -maxdepth 1 -type l -delete 2>/dev/null || true

# ---- Packages -----------------------------------------------------------------------------------
PACKAGES := g++ make pkg-config libdnnl-dev libboost-program-options-dev libstb-dev libjpeg62-turbo-dev nlohmann-json3-dev \
  libarchive-dev liblbfgs-dev libicu-dev libfreetype-dev fonts-noto-color-emoji libopenmpi-dev openmpi-bin libgtest-dev clang-format clang-tidy

# CLIP's merges; the wheel of open_clip_torch has OpenAI's file in it.
MERGES := data/bpe_simple_vocab_16e6.txt.gz
MERGES_SHA256 := 924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a
define fetch_merges
mkdir -p data && wheel=$$(mktemp -d data/wheel.XXXXXX) && trap 'rm -rf "$$wheel"' EXIT && \
python3 -m pip download -q --no-deps --dest "$$wheel" open_clip_torch && \
python3 -m zipfile -e "$$wheel"/*.whl "$$wheel" && file="$$wheel/open_clip/$(notdir $(MERGES))" && \
echo '$(MERGES_SHA256)  '"$$file" | sha256sum --check --status && mv "$$file" $(MERGES) && \
echo 'make deps: fetched $(MERGES)'
endef
deps:
	@if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then \
	  echo 'make deps knows Debian only. Install what your system calls these: $(PACKAGES)'; exit 0; \
	fi; \
	missing=; for package in $(PACKAGES); do \
	  dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing+=" $$package"; \
	done; \
	if [[ -z $$missing ]]; then echo 'make deps: all packages are installed'; exit 0; fi; \
	echo "make deps: installing$$missing"; \
	sudo=; (( EUID == 0 )) || sudo=sudo; \
	$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq --no-install-recommends $$missing
	@[[ -e $(MERGES) ]] || { $(fetch_merges); } 2>/dev/null || \
	  echo 'make deps: $(MERGES) was not fetched (no network or no pip); name CLIP'"'"'s merges by --bpe'

help:
	@printf '%s\n' \
	  'make               libraries and programs; then ./apps/<name> --help' \
	  'make deps          install the Debian packages that are missing, fetch the merges of CLIP' \
	  'make found         what this machine has of what the build can use' \
	  'make test          all tests; the last line is the sum. FILTER=... TESTS=...' \
	  'make test-fast     without sanitizers and the suites whose name starts with Slow' \
	  'make test-v3       all tests with the kernels that machines without AVX-512 run' \
	  'make fuzz          damaged files of every kind, FUZZ_SECONDS=60 each, under the sanitizers; led by coverage' \
	  '                   where clang++ has libFuzzer' \
	  'make test-exact    features of models of real size against the libraries that made their files;' \
	  '                   BENCH_PYTHON=a Python with torch, open_clip, transformers; EXACT_MODELS="RN50 ..."' \
	  'make bench         our speed beside the floor; with BENCH_PYTHON=... beside the peers, too' \
	  'make gpu-tests     the tests of a GPU alone; gpu-check: all that a GPU can be asked, with speeds' \
	  'make cuda-report   registers, spills and memory of each GPU kernel' \
	  'make check-layers  include directions, op cases, macros' \
	  'make format        clang-format; make format-check only looks' \
	  'make tidy          clang-tidy' \
	  'make clean         remove build/ and the links in apps/' \
	  '' \
	  'SANITIZE=address,undefined or SANITIZE=thread: a build in build/<that>/ with its own tests' \
	  'OPTIMIZE=-O1, CXXFLAGS=..., CXX=..., V=1 (whole commands): any change of flags rebuilds' \
	  'MPI=no: without MPI, so programs run as one process' \
	  'CUDA=no: without GPU kernels; CUDA_ARCHS="80 90": which GPUs they are compiled for' \
	  'JPEG=stb: JPEG by stb_image, although there is libjpeg-turbo' \
	  'SIM=1: programs and tests with a simulated GPU, in build/sim/; SIM=address, SIM=thread: its' \
	  "  kernels watched by a sanitizer. make test runs all three; SIM_KINDS=1: the plain one alone" \
	  '' \
	  'Kernels: a program takes the AVX-512 ones where the machine has it. To run the others:' \
	  '  $(plain_kernels) ./apps/<name>' \
	  'To see which were taken: LD_DEBUG=libs ./apps/<name> --help 2>&1 | grep "init.*clip_cpu"'
