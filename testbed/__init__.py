"""The rig that faults, charts, bench and k8s_tests share: real processes, and checkers of what they did."""
