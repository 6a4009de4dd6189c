package routes

import "slices"

// Missing is how many of the plan's rules aren't there. Unlike Read it looks at rules alone, of which there are few: it may be asked often.
func (p *Plan) Missing() (int, error) {
	k, err := openKernel()
	if err != nil {
		return 0, err
	}
	defer k.close()
	var live []Rule
	for _, f := range p.families {
		rules, err := k.rules(f)
		if err != nil {
			return 0, err
		}
		for i := range rules {
			live = append(live, ruleOf(&rules[i]))
		}
	}
	missing := 0
	for _, r := range p.rules {
		if !slices.Contains(live, r) {
			missing++
		}
	}
	return missing, nil
}
