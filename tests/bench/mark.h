// Marks for the lab's profiler (tests/lab/profiler): what runs between them is counted. They are NOPs to a processor.
#define MARK_BEGIN() __asm__ volatile(".byte 0x0f, 0x1f, 0x80, 'R', 'F', 'P', 1" ::: "memory")
#define MARK_END() __asm__ volatile(".byte 0x0f, 0x1f, 0x80, 'R', 'F', 'P', 0" ::: "memory")
