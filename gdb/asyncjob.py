"""Paused jobs in gdb, in a process or in a core file.

    (gdb) source gdb/asyncjob.py
    (gdb) jobs                  every job: its number, its name, what it waits for, where it is
    (gdb) job 7 bt              the frames of one job
    (gdb) job all bt            the frames of all jobs, each stack once
    (gdb) job 7 COMMAND         any command of gdb, with the frames of that job: job 7 info locals

A paused job has no thread, so gdb alone does not show it. The program carries the numbers by which this script finds
its jobs (src/job/debugger.rs). It needs neither symbols nor debug information for that; the names of functions need
symbols, and lines need line tables. Nothing in the process is changed or called. x86-64 only.
"""

import gdb
import gdb.unwinder

MAGIC = b"asyncjob layout1"
WORD = 8

# The numbers in the order of src/job/debugger.rs.
NUMBERS = """
    slab_base slab_len slab_next slab_stride slab_guard stagger_steps stagger
    header_size header_id header_limit header_name header_name_len
    ctx_status ctx_deadline ctx_armed ctx_words
    block_size coroutine control_id control_ctx control_parent control_stack
""".split()

# What a wait ctx says (src/wait_ctx/entries.rs): a record is the key, the fd with its flags, and two words more.
RECORDS, RECORD_WORDS, INLINE_RECORDS = 3, 4, 2
WRITABLE, BOTH, ONLY_WHEN_ARMED, REMOVED = 1 << 32, 1 << 33, 1 << 34, 1 << 36
NO_DEADLINE = (1 << 64) - 1
STATUS = {1: "its end: the engine has failed", 2: "a callback", 3: "another try"}

# The first function of a job, and the frame of corosensei from which gdb goes on to what is not of the job.
FIRST_FUNCTION, LAST_FRAME = "job_main", "stack_init_trampoline"
MOST_FRAMES = 1000
# `jobs` says where each job is if there are at most so many. For more it would take long.
MOST_PLACES = 200


def memory(address, length):
    """The bytes at an address, or None if there are none: in a core file, memory may be missing."""
    try:
        return gdb.selected_inferior().read_memory(address, length).tobytes()
    except (gdb.MemoryError, OverflowError):
        return None


def words(address, count):
    found = memory(address, count * WORD)
    if found is None:
        return None
    return [int.from_bytes(found[at:at + WORD], "little") for at in range(0, len(found), WORD)]


def word(address):
    found = words(address, 1)
    return found and found[0]


class Layout:
    """The numbers that one copy of the library carries. A process may have several: a program, and the drop-in."""

    def __init__(self, address):
        self.slabs, *numbers = words(address + len(MAGIC), 1 + len(NUMBERS))
        self.__dict__.update(zip(NUMBERS, numbers))

    @staticmethod
    def all():
        """Searches the sections in which the linker may have put them."""
        found = []
        for line in gdb.execute("info files", to_string=True).splitlines():
            parts = line.split()
            if len(parts) < 5 or parts[1] != "-" or parts[3] != "is":
                continue
            if parts[4] not in (".data.rel.ro", ".rodata", ".data"):
                continue
            start, end = int(parts[0], 16), int(parts[2], 16)
            data = memory(start, end - start) or b""
            at = data.find(MAGIC)
            while at >= 0:
                numbers = words(start + at + len(MAGIC), 1 + len(NUMBERS))
                # The bytes alone may be a copy of the string.
                if numbers and word(numbers[0]) is not None:
                    found.append(Layout(start + at))
                at = data.find(MAGIC, at + 1)
        return found

    def stacks(self):
        """The limit and the header of each slot, in use or not."""
        slab = word(self.slabs)
        while slab:
            base, length = word(slab + self.slab_base), word(slab + self.slab_len)
            stride = word(slab + self.slab_stride)
            for index in range(length // stride if base and length and stride else 0):
                below = self.header_size + self.stagger * (index % self.stagger_steps)
                yield base + index * stride, base + (index + 1) * stride - below
            slab = word(slab + self.slab_next)

    def jobs(self):
        for limit, header in self.stacks():
            job = Job.at(self, limit, header)
            if job:
                yield job


class Job:
    """A job that is paused, or that runs on a thread."""

    @staticmethod
    def at(layout, limit, header):
        control = header - layout.block_size
        found = words(control, (layout.block_size + layout.header_size) // WORD)
        if not found:
            return None
        head = found[layout.block_size // WORD:]
        number = head[layout.header_id // WORD]
        if head[layout.header_limit // WORD] != limit or number == 0:
            return None
        # Two words of a suspended coroutine are addresses on its stack: where it started, and below that where it is.
        coroutine = found[layout.coroutine // WORD:layout.block_size // WORD]
        on_stack = [value for value in coroutine if limit < value < control]
        job = Job()
        job.layout, job.limit, job.control, job.number = layout, limit, control, number
        job.pointer = min(on_stack) if len(on_stack) == 2 and on_stack[0] != on_stack[1] else None
        job.ctx = found[layout.control_ctx // WORD]
        job.thread = None
        length = head[layout.header_name_len // WORD]
        name = memory(head[layout.header_name // WORD], min(length, 256)) if length else None
        job.name = name.decode("utf-8", "replace") if name else None
        return job

    def waits_for(self):
        if self.pointer is None:
            return "runs on thread %s" % self.thread
        layout, causes = self.layout, []
        armed, deadline = word(self.ctx + layout.ctx_armed), word(self.ctx + layout.ctx_deadline)
        records = words(self.ctx + layout.ctx_words, RECORDS + RECORD_WORDS * INLINE_RECORDS)
        for index in range(min(records[0], INLINE_RECORDS) if records else 0):
            key, flags = records[RECORDS + RECORD_WORDS * index:][:2]
            if flags & REMOVED or (flags & ONLY_WHEN_ARMED and key != armed):
                continue
            interest = "Both" if flags & BOTH else "Writable" if flags & WRITABLE else "Readable"
            causes.append("fd %d (%s)" % (flags & 0xFFFFFFFF, interest))
        if records and records[0] > INLINE_RECORDS:
            causes.append("%d fds more" % (records[0] - INLINE_RECORDS))
        status = memory(self.ctx + layout.ctx_status, 4)
        status = int.from_bytes(status, "little", signed=True) if status else 0
        if status:
            causes.append(STATUS.get(status, "a callback (status %d)" % status))
        if deadline not in (None, NO_DEADLINE):
            causes.append("a deadline")
        return "waits for " + (" or ".join(causes) or "nothing that it has named: it is polled")

    def __str__(self):
        return "#%d%s, %s" % (self.number, " " + self.name if self.name else "", self.waits_for())

    def frames(self):
        """The frames, as text, the innermost first."""
        if self.pointer is None:
            return ["(it runs: thread apply %s bt)" % self.thread]
        with Unwinding(self):
            texts = []
            frame = gdb.newest_frame().older()
            while frame is not None and len(texts) < MOST_FRAMES:
                name, place = frame.name(), frame.find_sal()
                if name == LAST_FRAME or not self.limit <= int(frame.read_register("rsp")) <= self.control:
                    break
                text = name or "0x%x" % frame.pc()
                if place is not None and place.symtab is not None:
                    text += " at %s:%d" % (place.symtab.filename, place.line)
                texts.append(text)
                if name and FIRST_FUNCTION in name.partition("<")[0]:
                    break
                frame = frame.older()
            return texts

    def place(self):
        """The innermost frame that is not of the library."""
        ours = ("asyncjob::", "corosensei::", "<corosensei::", "<asyncjob::", "ASYNC_pause_job", "core::")
        paths = ("/corosensei-", "src/job/", "src/waiting/", "/rustc/")
        for frame in self.frames():
            function, _, path = frame.partition(" at ")
            if not function.startswith(ours) and not any(part in path for part in paths):
                return frame
        return None


class Unwinder(gdb.unwinder.Unwinder):
    """Lets the frames of a job follow the innermost frame of the selected thread. The registers of a core file cannot
    be written, so the other way, to give the thread the registers of the job for a while, is not open."""

    def __init__(self):
        super().__init__("asyncjob")
        self.job, self.innermost = None, None

    def __call__(self, pending):
        if self.job is None:
            return None
        here = int(pending.read_register("rip")), int(pending.read_register("rsp"))
        if here != self.innermost:
            return None
        # As corosensei suspends a job: the address at which it goes on, rbx and rbp. Above them is the stack pointer.
        pointer = self.job.pointer
        rip, rbx, rbp = words(pointer, 3)
        saved = {"rip": rip, "rbx": rbx, "rbp": rbp, "rsp": pointer + 3 * WORD}
        info = pending.create_unwind_info(FrameId(pointer, here[0]))
        for register, value in saved.items():
            kind = pending.read_register(register).type
            info.add_saved_register(register, gdb.Value(value).cast(kind))
        return info


class FrameId:
    """How gdb tells a frame from others."""

    def __init__(self, sp, pc):
        self.sp, self.pc = gdb.Value(sp), gdb.Value(pc)


class Unwinding:
    """While it is entered, the frame above the innermost one is the first of the job."""

    def __init__(self, job):
        self.job = job

    def __enter__(self):
        if gdb.selected_thread() is None:
            raise gdb.GdbError("no thread is selected: the program does not run, and there is no core file")
        frame = gdb.newest_frame()
        UNWINDER.innermost = int(frame.read_register("rip")), int(frame.read_register("rsp"))
        UNWINDER.job = self.job
        gdb.invalidate_cached_frames()

    def __exit__(self, *_):
        UNWINDER.job = None
        gdb.invalidate_cached_frames()
        gdb.newest_frame().select()


def all_jobs():
    """The jobs that are paused or run, by number."""
    layouts = Layout.all()
    if not layouts:
        raise gdb.GdbError("this program has no jobs: it does not use asyncjob, or another version than this script")
    pointers = stack_pointers()
    jobs = {job.control: job for layout in layouts for job in layout.jobs()}
    for job in list(jobs.values()):
        running = [thread for thread, pointer in pointers.items() if job.limit <= pointer <= job.control]
        # A job that runs has been started or resumed in its parent, which waits for it on the same thread.
        while running and job and job.thread is None:
            job.thread = running[0]
            job = jobs.get(word(job.control + job.layout.control_parent))
    # A job that is neither suspended nor on a thread has ended.
    there = [job for job in jobs.values() if job.thread is not None or job.pointer is not None]
    return sorted(there, key=lambda job: job.number)


def stack_pointers():
    """The stack pointer of each thread, by the number of the thread."""
    selected, pointers = gdb.selected_thread(), {}
    if selected is None:
        return pointers
    for thread in gdb.selected_inferior().threads():
        thread.switch()
        pointers[thread.num] = int(gdb.newest_frame().read_register("rsp"))
    selected.switch()
    return pointers


def check_architecture():
    if gdb.selected_thread() is None:
        raise gdb.GdbError("the program does not run, and there is no core file")
    name = gdb.newest_frame().architecture().name()
    if name != "i386:x86-64":
        raise gdb.GdbError("jobs are found on x86-64 only, and this is %s" % name)


class Jobs(gdb.Command):
    """Lists the jobs: number, name, what each waits for, and where it is."""

    def __init__(self):
        super().__init__("jobs", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        check_architecture()
        jobs = all_jobs()
        for job in jobs:
            place = job.place() if job.pointer is not None and len(jobs) <= MOST_PLACES else None
            print("%s%s" % (job, ", in " + place if place else ""))
        print("%d jobs" % len(jobs))


class JobCommand(gdb.Command):
    """job N bt: the frames of job N. job all bt: those of all jobs, each stack once.

job N COMMAND executes any other command with the frames of the job: the innermost is frame 1."""

    def __init__(self):
        super().__init__("job", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        check_architecture()
        which, _, command = argument.strip().partition(" ")
        command = command.strip()
        if not which or not command:
            raise gdb.GdbError("usage: job N bt, job all bt, job N COMMAND")
        jobs = all_jobs()
        if which != "all":
            number = which.lstrip("#")
            jobs = [job for job in jobs if str(job.number) == number]
            if not jobs:
                raise gdb.GdbError("no job %s is paused or runs: the command jobs lists those that do" % which)
        if command in ("bt", "backtrace", "where"):
            backtraces(jobs)
            return
        for job in jobs:
            print(job)
            if job.pointer is None:
                gdb.execute("thread apply %s %s" % (job.thread, command))
                continue
            with Unwinding(job):
                gdb.newest_frame().older().select()
                gdb.execute(command)


def backtraces(jobs):
    by_stack = {}
    for job in jobs:
        by_stack.setdefault(tuple(job.frames()), []).append(job)
    for frames, group in sorted(by_stack.items(), key=lambda stack: -len(stack[1])):
        if len(group) > 1:
            print("%d jobs are here:" % len(group))
        for job in group:
            print(job)
        for index, frame in enumerate(frames):
            print("    %-3d %s" % (index, frame))


UNWINDER = Unwinder()
gdb.unwinder.register_unwinder(None, UNWINDER, replace=True)
Jobs()
JobCommand()
