package daemon

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// flowMemory maps memory for the flow table and for early data, in huge pages where the kernel has them: a lookup among a million flows
// otherwise spends most of its time finding the page. It is never unmapped, because flows may be
// looked at until the process ends, and it takes no physical memory before it is used.
func flowMemory(bytes int) ([]byte, error) {
	memory, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d MB: %w: lower flows.capacity or flows.early_data_memory", bytes>>20, err)
	}
	_ = unix.Madvise(memory, unix.MADV_HUGEPAGE) // without it things are only slower
	return memory, nil
}
