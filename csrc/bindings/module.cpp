// SPDX-License-Identifier: Apache-2.0
// The Python extension lightwam.runtime._engine: thin, the checks of types live in lightwam.runtime.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <functional>
#include <string>
#include <string_view>

#include "bindings/gil.hpp"
#include "engine/engine_file.hpp"
#include "lightwam/policy.hpp"
#include "runtime/instruction_text.hpp"

namespace py = pybind11;
using lightwam::bindings::WithoutGil;

namespace {

constexpr std::size_t kMaxCameras = 64;

constexpr lightwam::engine::Named<lightwam::ErrorKind> kExceptions[] = {
    {lightwam::ErrorKind::internal, "LightWAMError"},       {lightwam::ErrorKind::engine, "EngineError"},
    {lightwam::ErrorKind::observation, "ObservationError"}, {lightwam::ErrorKind::instruction, "InstructionError"},
    {lightwam::ErrorKind::precision, "PrecisionError"},     {lightwam::ErrorKind::device, "DeviceError"}};

void translate(std::exception_ptr pointer) {
    try {
        if (pointer) std::rethrow_exception(pointer);
    } catch (const lightwam::Error& error) {
        const py::object type =
            py::module_::import("lightwam.errors").attr(lightwam::engine::row_of(kExceptions, error.kind()).name);
        const std::string_view text = error.what();
        const auto message = py::reinterpret_steal<py::object>(
            PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
        PyErr_SetObject(type.ptr(), message.ptr());
    }
}

[[noreturn]] void fail(const char* why) { throw lightwam::Error(lightwam::ErrorKind::observation, why); }

lightwam::ImageView image_view(py::handle name, py::handle value) {
    if (!py::isinstance<py::str>(name) || !py::isinstance<py::array>(value)) fail("an image is no named array");
    const auto array = py::reinterpret_borrow<py::array>(value);
    if (array.dtype().kind() != 'u' || array.itemsize() != 1 || array.ndim() != 3 || array.shape(2) != 3)
        fail("an image is not uint8 [height, width, 3]");
    Py_ssize_t length = 0;
    const char* text = PyUnicode_AsUTF8AndSize(name.ptr(), &length);
    if (text == nullptr) throw py::error_already_set();
    return {{text, static_cast<std::size_t>(length)},
            static_cast<const std::uint8_t*>(array.data()),
            array.shape(0),
            array.shape(1),
            array.strides(0),
            array.strides(1),
            array.strides(2)};
}

// Pointer and length of a contiguous float32 array, or of None.
std::pair<const float*, std::size_t> float_view(py::handle value) {
    if (value.is_none()) return {nullptr, 0};
    if (!py::isinstance<py::array>(value)) fail("expected an array of float32");
    const auto array = py::reinterpret_borrow<py::array>(value);
    if (array.dtype().kind() != 'f' || array.itemsize() != 4 || !(array.flags() & py::array::c_style))
        fail("expected a contiguous array of float32");
    return {static_cast<const float*>(array.data()), static_cast<std::size_t>(array.size())};
}

using Views = std::array<lightwam::ImageView, kMaxCameras>;

// `views`: where the observation's images are described.
lightwam::Observation observation_of(const py::dict& images, py::handle latents, py::handle state, Views& views) {
    if (images.size() > views.size()) fail("more than 64 images");
    lightwam::Observation observation;
    observation.images = views.data();
    for (const auto& [name, value] : images) views[observation.image_count++] = image_view(name, value);
    std::tie(observation.latents, observation.latent_count) = float_view(latents);
    std::tie(observation.state, observation.state_width) = float_view(state);
    return observation;
}

// Writes the actions and, into `seconds`, the total and each stage's time (-1 for a stage that was not timed). Python
// calls it as two functions of six arguments: for a seventh pybind11 allocates in every call.
template <bool by_stage>
void infer(lightwam::Policy& policy, const py::dict& images, py::handle latents, py::handle state, py::array& actions,
           py::array& seconds) {
    Views views;
    const lightwam::Observation observation = observation_of(images, latents, state, views);
    const auto [action_data, action_count] = float_view(actions);
    if (seconds.dtype().kind() != 'f' || seconds.itemsize() != 8 || seconds.size() != lightwam::kStageCount + 1)
        fail("seconds is not float64 [7]");
    float* const out = static_cast<float*>(actions.mutable_data());
    double* const times = static_cast<double*>(seconds.mutable_data());
    lightwam::Timings timings;
    {
        const WithoutGil without_gil;
        if constexpr (by_stage)
            policy.infer_by_stage(observation, out, action_count, timings);
        else
            policy.infer(observation, out, action_count, &timings);
    }
    times[0] = timings.total;
    for (int i = 0; i < lightwam::kStageCount; ++i) times[i + 1] = timings.present[i] ? timings.seconds[i] : -1.0;
}

// Times all tactics; the members of lightwam.runtime.tuning.Tuning.
py::dict tune(lightwam::Policy& policy, const py::dict& images, py::handle latents, py::handle state, int repeats,
              const py::function& progress) {
    Views views;
    const lightwam::Observation observation = observation_of(images, latents, state, views);
    lightwam::Tuning tuning;
    {
        WithoutGil without_gil;
        tuning =
            policy.tune(observation, repeats, [&](int done, int total) { without_gil.call(progress, done, total); });
    }
    py::list tasks;
    for (const lightwam::TaskTiming& task : tuning.tasks)
        tasks.append(py::dict(py::arg("label") = task.label, py::arg("kernel") = task.kernel,
                              py::arg("launches") = task.launches,
                              py::arg("tactics") = py::tuple(py::cast(task.tactics)),
                              py::arg("seconds") = py::tuple(py::cast(task.seconds)), py::arg("chosen") = task.chosen));
    return py::dict(py::arg("gpu") = tuning.gpu, py::arg("target") = tuning.target, py::arg("driver") = tuning.driver,
                    py::arg("plan") = tuning.plan, py::arg("tasks") = tasks,
                    py::arg("default_seconds") = tuning.default_seconds,
                    py::arg("tuned_seconds") = tuning.tuned_seconds, py::arg("cosine") = tuning.cosine,
                    py::arg("library") = tuning.library, py::arg("why_no_library") = tuning.why_no_library);
}

void set_instruction(lightwam::Policy& policy, const std::string& text) {
    const WithoutGil without_gil;
    policy.set_instruction(text);
}

// Waits until no other thread is in the policy, which may itself wait for Python (the progress of `tune`).
std::string instruction(const lightwam::Policy& policy) {
    const WithoutGil without_gil;
    return policy.instruction();
}

// Python handles signals on its main thread alone: on another one there is nothing to look for while a file is read.
bool on_main_thread() {
    const py::module_ threading = py::module_::import("threading");
    return threading.attr("get_ident")().equal(threading.attr("main_thread")().attr("ident"));
}

// `on_warning` is called with one line; what it raises ends the call that warns.
std::unique_ptr<lightwam::Policy> open_policy(const std::string& path, const std::string& device, int threads,
                                              const std::string& precision, const std::string& instruction_set,
                                              const std::string& color_order, const std::string& unfamiliar,
                                              const py::object& on_warning) {
    lightwam::PolicyOptions options;
    options.color_order = color_order;
    options.unfamiliar = unfamiliar;
    // The reference is never given back: a policy may be deleted where Python's lock is not held.
    if (!on_warning.is_none())
        options.on_warning = [handler = on_warning.inc_ref().ptr()](const std::string& message) {
            lightwam::bindings::warn(handler, message);
        };
    options.device = device;
    options.threads = threads;
    options.precision = precision;
    options.instruction_set = instruction_set;
    const bool signals = on_main_thread();
    WithoutGil without_gil;
    if (signals) options.while_opening = [&] { without_gil.check_signals(); };
    return std::make_unique<lightwam::Policy>(path, options);
}

// Verifies an engine file, numbers included, without keeping its weights; returns its JSON document.
std::string verify(const std::string& path) {
    const bool signals = on_main_thread();
    WithoutGil without_gil;
    std::function<void()> while_reading;
    if (signals) while_reading = [&] { without_gil.check_signals(); };
    const lightwam::engine::EngineFile file(path, std::move(while_reading));
    file.check_all_numbers();
    return file.document();
}

// In place of the error of pickle, copy and deepcopy, which names no remedy.
py::object refuse_to_copy(const lightwam::Policy&, py::handle) {
    throw lightwam::Error(lightwam::ErrorKind::device,
                          "a policy cannot be pickled or copied, for its threads and memory are those of this process: "
                          "pass the path of its engine file on, and open it where it is used");
}

// The text of an instruction as it is encoded; for tests.
std::string clean_instruction(const std::string& text) { return lightwam::runtime::InstructionCleaner()(text); }

py::list stage_names() {
    py::list names;
    for (int i = 0; i < lightwam::kStageCount; ++i) names.append(lightwam::stage_name(static_cast<lightwam::Stage>(i)));
    return names;
}

}  // namespace

PYBIND11_MODULE(_engine, module) {
    module.doc() = "The C++ runtime of lightwam.";
    py::register_exception_translator(translate);
    module.def("verify", &verify, py::arg("path"));
    module.def("clean_instruction", &clean_instruction, py::arg("text"));
    module.attr("STAGES") = stage_names();
    py::dtype::of<float>();  // pybind11 looks NumPy up now, not in a thread that Python may end meanwhile

    using lightwam::Policy;
    py::class_<Policy>(module, "Policy")
        .def(py::init(&open_policy), py::arg("path"), py::arg("device"), py::arg("threads"), py::arg("precision"),
             py::arg("instruction_set") = "auto", py::arg("color_order") = "rgb", py::arg("unfamiliar") = "warn",
             py::arg("on_warning") = py::none())
        .def("set_instruction", &set_instruction, py::arg("text"))
        .def("infer", &infer<false>, py::arg("images"), py::arg("latents"), py::arg("state"), py::arg("actions"),
             py::arg("seconds"))
        .def("infer_by_stage", &infer<true>, py::arg("images"), py::arg("latents"), py::arg("state"),
             py::arg("actions"), py::arg("seconds"))
        .def("tune", &tune, py::arg("images"), py::arg("latents"), py::arg("state"), py::arg("repeats"),
             py::arg("progress"))
        .def("__reduce_ex__", &refuse_to_copy, py::arg("protocol"))
        .def_property_readonly("instruction", &instruction)
        .def_property_readonly("instruction_computations", &Policy::instruction_computations)
        .def_property_readonly("resize_plans_built", &Policy::resize_plans_built)
        .def_property_readonly("document", [](const Policy& p) { return p.info().metadata_json; })
        .def_property_readonly("execution_info", [](const Policy& p) { return p.info().execution_info; })
        .def_property_readonly("warning", [](const Policy& p) { return p.info().warning; })
        .def_property_readonly("device", [](const Policy& p) { return p.info().device; })
        .def_property_readonly("threads", [](const Policy& p) { return p.info().threads; })
        .def_property_readonly("instruction_set", [](const Policy& p) { return p.info().instruction_set; })
        .def_property_readonly("arena_bytes", [](const Policy& p) { return p.info().arena_bytes; })
        .def_property_readonly("weight_bytes", [](const Policy& p) { return p.info().weight_bytes; });
}
